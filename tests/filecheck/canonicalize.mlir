// RUN: canonicalize,cse
// MACHINE: elmoe3d-4gb memories.hb.capacity_gb=0.000085 memories.hb.banks=2

!t1 = !moe.tokens<1 : i64, 1 : i64>
!t2 = !moe.tokens<1 : i64, -1 : i64>
!h1 = !moe.hidden<1 : i64, 1 : i64, 64 : i64>
!h2 = !moe.hidden<1 : i64, -1 : i64, 64 : i64>
!r = !moe.routing<4 : i64, 2 : i64>
!l = !moe.logits<128 : i64>
module attributes {moe.version = 6 : i64} {
  "moe.model"() {architecture = "Hand", dense_bits = 8.5, dense_msb_bits = 4.5, embedding_bits = 16.0, embedding_parameters = 8192 : i64, expert_bits = 8.5, format = "int8-sliced", hidden = 64 : i64, kv_bits = 16.0, layers = 1 : i64, msb_bits = 4.5, name = "hand", total_parameters = 90624 : i64, vocabulary = 128 : i64} : () -> ()
  "moe.request"() {batch = 1 : i64, context = 4 : i64, cost_model = "analytic", draft_length = 1 : i64, place = "", seed = 0 : i64, time_limit_seconds = 0.1} : () -> ()
  "moe.expert_store"() {experts = 4 : i64, layer = 0 : i64, msb_bytes = 6912 : i64, needed = #moe.open, parameters = 12288 : i64, placement = #moe.open, residency = #moe.open, residual_bytes = 6144 : i64, sym_name = "layer0", top_k = 2 : i64} : () -> ()
  func.func @draft_step(%t: !t1) -> !l {
    %0 = "moe.embed"(%t) {row_bytes = 128 : i64} : (!t1) -> !h1
    %1 = "moe.attention"(%0) {attention_macs = 256 : i64, gathered_elements = 192 : i64, kv_heads = 2 : i64, merged_elements = 0 : i64, state_bytes = 0 : i64, kv_elements = 128 : i64, layer = 0 : i64, macs_per_token = 24576 : i64, weight_bytes = 26368 : i64, window = 0 : i64} : (!h1) -> !h1
    %2 = "moe.router"(%1) {layer = 0 : i64, macs_per_token = 256 : i64, weight_bytes = 400 : i64} : (!h1) -> !r
    %4 = "moe.experts"(%1, %2) {slice = "whole", store = @layer0} : (!h1, !r) -> !h1
    %dead = "moe.router"(%1) {layer = 0 : i64, macs_per_token = 256 : i64, weight_bytes = 400 : i64} : (!h1) -> !r
    %5 = "moe.add"(%1, %4) : (!h1, !h1) -> !h1
    %6 = "moe.head"(%5) {macs_per_token = 8192 : i64, weight_bytes = 8832 : i64} : (!h1) -> !l
    return %6 : !l
  }
  func.func @verify_step(%t: !t2) -> !l {
    %0 = "moe.embed"(%t) {row_bytes = 128 : i64} : (!t2) -> !h2
    %1 = "moe.attention"(%0) {attention_macs = 256 : i64, gathered_elements = 192 : i64, kv_heads = 2 : i64, merged_elements = 0 : i64, state_bytes = 0 : i64, kv_elements = 128 : i64, layer = 0 : i64, macs_per_token = 24576 : i64, weight_bytes = 26368 : i64, window = 0 : i64} : (!h2) -> !h2
    %2 = "moe.router"(%1) {layer = 0 : i64, macs_per_token = 256 : i64, weight_bytes = 400 : i64} : (!h2) -> !r
    %4 = "moe.experts"(%1, %2) {slice = "whole", store = @layer0} : (!h2, !r) -> !h2
    %5 = "moe.add"(%1, %4) : (!h2, !h2) -> !h2
    %6 = "moe.head"(%5) {macs_per_token = 8192 : i64, weight_bytes = 8832 : i64} : (!h2) -> !l
    return %6 : !l
  }
}

// A router is pure: a dead duplicate goes, an attention writes the KV cache and stays.
// CHECK: func.func @draft_step
// CHECK: moe.attention
// CHECK: moe.router
// CHECK-NOT: moe.router
// CHECK: func.func @verify_step
