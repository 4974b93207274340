
!t1 = !moe.tokens<1 : i64, 1 : i64>
!t2 = !moe.tokens<1 : i64, -1 : i64>
!h1 = !moe.hidden<1 : i64, 1 : i64, 64 : i64>
!h2 = !moe.hidden<1 : i64, -1 : i64, 64 : i64>
!r = !moe.routing<4 : i64, 2 : i64>
!l = !moe.logits<128 : i64>
module attributes {moe.version = 5 : i64} {
  "moe.model"() {architecture = "Hand", dense_bits = 8.5, dense_msb_bits = 4.5, embedding_bits = 16.0, embedding_parameters = 8192 : i64, expert_bits = 8.5, format = "int8-sliced", hidden = 64 : i64, kv_bits = 16.0, layers = 1 : i64, msb_bits = 4.5, name = "hand", total_parameters = 90624 : i64, vocabulary = 128 : i64} : () -> ()
  "moe.request"() {batch = 1 : i64, context = 4 : i64, cost_model = "analytic", draft_length = 1 : i64, seed = 0 : i64, time_limit_seconds = 0.1} : () -> ()
  "moe.expert_store"() {experts = 4 : i64, layer = 0 : i64, msb_bytes = 6912 : i64, needed = #moe.open, parameters = 12288 : i64, placement = #moe.open, residency = #moe.open, residual_bytes = 6144 : i64, sym_name = "layer0", top_k = 2 : i64} : () -> ()
  func.func @round() {
    %external = "sched.resource"() {capacity = 1 : i64, kind = "unit", name = "external"} : () -> !sched.handle
    %banks = "sched.resource"() {capacity = 1 : i64, kind = "unit", name = "banks0-1"} : () -> !sched.handle
    %staging = "sched.resource"() {capacity = 128 : i64, kind = "buffer", name = "staging"} : () -> !sched.handle
    %a = "sched.task"(%banks) {modes = [#sched.mode<10 : i64, array<i64: 1>>], operandSegmentSizes = array<i32: 0, 1>, slot = #sched.open, step = 1 : i64, traffic = #sched.traffic<{}>, work = #sched.dense<0 : i64>} : (!sched.handle) -> !sched.token
    %b = "sched.task"(%external) {modes = [#sched.mode<8 : i64, array<i64: 1>>], operandSegmentSizes = array<i32: 0, 1>, slot = #sched.open, step = 1 : i64, traffic = #sched.traffic<{}>, work = #sched.load<@layer0, 3 : i64>} : (!sched.handle) -> !sched.token
    %c = "sched.task"(%a, %b, %banks) {modes = [#sched.mode<5 : i64, array<i64: 1>>], operandSegmentSizes = array<i32: 2, 1>, slot = #sched.open, step = 1 : i64, traffic = #sched.traffic<{}>, work = #sched.expert<@layer0, 3 : i64>} : (!sched.token, !sched.token, !sched.handle) -> !sched.token
    "sched.buffer"(%b, %c, %staging) {address = #sched.open, amount = 64 : i64} : (!sched.token, !sched.token, !sched.handle) -> ()
    "sched.buffer"(%b, %c, %staging) {address = #sched.open, amount = 64 : i64} : (!sched.token, !sched.token, !sched.handle) -> ()
    return
  }
}

