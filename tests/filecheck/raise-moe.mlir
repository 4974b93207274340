// RUN: raise-moe
// MACHINE: elmoe3d-4gb

!act = !torch.vtensor<[1,1,64],bf16>
!row = !torch.vtensor<[1,64],bf16>
!mat = !torch.vtensor<[64,64],bf16>
module attributes {moe.version = 6 : i64} {
  "moe.model"() {architecture = "Hand", dense_bits = 8.5, dense_msb_bits = 4.5, embedding_bits = 16.0, embedding_parameters = 8192 : i64, expert_bits = 8.5, format = "int8-sliced", hidden = 64 : i64, kv_bits = 16.0, layers = 1 : i64, msb_bits = 4.5, name = "hand", total_parameters = 90624 : i64, vocabulary = 128 : i64} : () -> ()
  "moe.request"() {batch = 1 : i64, context = 4 : i64, cost_model = "analytic", draft_length = 1 : i64, place = "", seed = 0 : i64, time_limit_seconds = 0.1} : () -> ()
  func.func @draft_step(%tokens: !torch.vtensor<[1,1],si64>, %table: !torch.vtensor<[128,64],bf16>, %o: !mat, %gate: !torch.vtensor<[4,64],bf16>, %w: !torch.vtensor<[4,128,64],bf16>, %lm: !torch.vtensor<[128,64],bf16>) -> !torch.vtensor<[1,1,128],bf16> attributes {arg_attrs = [{}, {moe.parameter = "e"}, {moe.parameter = "o"}, {moe.parameter = "g"}, {moe.parameter = "w"}, {moe.parameter = "l"}]} {
    %zero = torch.constant.int 0
    %one = torch.constant.int 1
    %none = torch.constant.none
    %false = torch.constant.bool false
    %x = torch.aten.embedding %table, %tokens, %zero, %false, %false : !torch.vtensor<[128,64],bf16>, !torch.vtensor<[1,1],si64>, !torch.int, !torch.bool, !torch.bool -> !act
    %q = torch.operator "torch.split"(%x) : (!act) -> !torch.vtensor<[1,1,1,64],bf16>
    %a = torch.operator "torch.moe.attention"(%q, %q, %q, %none, %zero, %zero, %zero) : (!torch.vtensor<[1,1,1,64],bf16>, !torch.vtensor<[1,1,1,64],bf16>, !torch.vtensor<[1,1,1,64],bf16>, !torch.none, !torch.int, !torch.int, !torch.int) -> !act
    %p = torch.operator "torch.linear"(%a, %o) : (!act, !mat) -> !act
    %s = torch.aten.add.Tensor %x, %p, %one : !act, !act, !torch.int -> !act
    %i = torch.operator "torch.route"(%s, %gate) : (!act, !torch.vtensor<[4,64],bf16>) -> !torch.vtensor<[1,2],si64>
    %f = torch.operator "torch.flat"(%s) : (!act) -> !row
    %ws = torch.prim.ListConstruct %w : (!torch.vtensor<[4,128,64],bf16>) -> !torch.list<vtensor>
    %e = torch.operator "torch.moe.experts"(%f, %i, %f, %ws) : (!row, !torch.vtensor<[1,2],si64>, !row, !torch.list<vtensor>) -> !act
    %t = torch.aten.add.Tensor %s, %e, %one : !act, !act, !torch.int -> !act
    %y = torch.operator "torch.linear"(%t, %lm) : (!act, !torch.vtensor<[128,64],bf16>) -> !torch.vtensor<[1,1,128],bf16>
    return %y : !torch.vtensor<[1,1,128],bf16>
  }
  func.func @verify_step(%tokens: !torch.vtensor<[1,1],si64>, %table: !torch.vtensor<[128,64],bf16>, %o: !mat, %gate: !torch.vtensor<[4,64],bf16>, %w: !torch.vtensor<[4,128,64],bf16>, %lm: !torch.vtensor<[128,64],bf16>) -> !torch.vtensor<[1,1,128],bf16> attributes {arg_attrs = [{}, {moe.parameter = "e"}, {moe.parameter = "o"}, {moe.parameter = "g"}, {moe.parameter = "w"}, {moe.parameter = "l"}]} {
    %zero = torch.constant.int 0
    %one = torch.constant.int 1
    %none = torch.constant.none
    %false = torch.constant.bool false
    %x = torch.aten.embedding %table, %tokens, %zero, %false, %false : !torch.vtensor<[128,64],bf16>, !torch.vtensor<[1,1],si64>, !torch.int, !torch.bool, !torch.bool -> !act
    %q = torch.operator "torch.split"(%x) : (!act) -> !torch.vtensor<[1,1,1,64],bf16>
    %a = torch.operator "torch.moe.attention"(%q, %q, %q, %none, %zero, %zero, %zero) : (!torch.vtensor<[1,1,1,64],bf16>, !torch.vtensor<[1,1,1,64],bf16>, !torch.vtensor<[1,1,1,64],bf16>, !torch.none, !torch.int, !torch.int, !torch.int) -> !act
    %p = torch.operator "torch.linear"(%a, %o) : (!act, !mat) -> !act
    %s = torch.aten.add.Tensor %x, %p, %one : !act, !act, !torch.int -> !act
    %i = torch.operator "torch.route"(%s, %gate) : (!act, !torch.vtensor<[4,64],bf16>) -> !torch.vtensor<[1,2],si64>
    %f = torch.operator "torch.flat"(%s) : (!act) -> !row
    %ws = torch.prim.ListConstruct %w : (!torch.vtensor<[4,128,64],bf16>) -> !torch.list<vtensor>
    %e = torch.operator "torch.moe.experts"(%f, %i, %f, %ws) : (!row, !torch.vtensor<[1,2],si64>, !row, !torch.list<vtensor>) -> !act
    %t = torch.aten.add.Tensor %s, %e, %one : !act, !act, !torch.int -> !act
    %y = torch.operator "torch.linear"(%t, %lm) : (!act, !torch.vtensor<[128,64],bf16>) -> !torch.vtensor<[1,1,128],bf16>
    return %y : !torch.vtensor<[1,1,128],bf16>
  }
}

// A residual stream is cut at its additions: embedding, attention with one matrix, router and experts, head.
// CHECK: "moe.expert_store"() {experts = 4 : i64, layer = 0 : i64, msb_bytes = 4608 : i64, needed = #moe.open, parameters = 8192 : i64
// CHECK-SAME: residual_bytes = 4096 : i64, sym_name = "layer0", top_k = 2 : i64}
// CHECK: func.func @draft_step
// CHECK-NEXT: %[[X:.*]] = "moe.embed"
// CHECK-NEXT: %[[A:.*]] = "moe.attention"(%[[X]]) {{.*}}kv_elements = 128 : i64, kv_heads = {{[0-9]+}} : i64, layer = 0 : i64, macs_per_token = 4096 : i64, merged_elements = {{[0-9]+}} : i64, state_bytes = 0 : i64, weight_bytes = 4352 : i64
// CHECK-NEXT: %[[R:.*]] = "moe.router"(%[[A]]) {layer = 0 : i64, macs_per_token = 256 : i64, weight_bytes = 272 : i64}
// CHECK-NEXT: %[[E:.*]] = "moe.experts"(%[[A]], %[[R]]) {slice = "whole", store = @layer0}
// CHECK-NEXT: %[[S:.*]] = "moe.add"(%[[A]], %[[E]])
// CHECK-NEXT: "moe.head"(%[[S]]) {macs_per_token = 8192 : i64, weight_bytes = 8704 : i64}
// CHECK: func.func @verify_step
