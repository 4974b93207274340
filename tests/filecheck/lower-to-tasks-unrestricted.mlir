// RUN: not lower-to-tasks
// MACHINE: elmoe3d-4gb memories.hb.capacity_gb=0.000085 memories.hb.banks=2
// PROFILE: synthetic-200tokens-seed0

!t1 = !moe.tokens<1 : i64, 1 : i64>
!t2 = !moe.tokens<1 : i64, -1 : i64>
!h1 = !moe.hidden<1 : i64, 1 : i64, 64 : i64>
!h2 = !moe.hidden<1 : i64, -1 : i64, 64 : i64>
!r = !moe.routing<4 : i64, 2 : i64>
!l = !moe.logits<128 : i64>
module attributes {moe.version = 6 : i64} {
  "moe.model"() {architecture = "Hand", dense_bits = 8.5, dense_msb_bits = 4.5, embedding_bits = 16.0, embedding_parameters = 8192 : i64, expert_bits = 8.5, format = "int8-sliced", hidden = 64 : i64, kv_bits = 16.0, layers = 1 : i64, msb_bits = 4.5, name = "hand", total_parameters = 90624 : i64, vocabulary = 128 : i64} : () -> ()
  "moe.request"() {batch = 1 : i64, context = 4 : i64, cost_model = "analytic", draft_length = 1 : i64, place = "", seed = 0 : i64, time_limit_seconds = 0.1} : () -> ()
  "moe.bank_set"() {banks = array<i64: 0, 1>, sym_name = "all"} : () -> ()
  "moe.bank_set"() {banks = array<i64: 0>, sym_name = "left"} : () -> ()
  "moe.bank_set"() {banks = array<i64: 1>, sym_name = "right"} : () -> ()
  "moe.expert_store"() {experts = 4 : i64, layer = 0 : i64, msb_bytes = 6912 : i64, needed = #moe.open, parameters = 12288 : i64, placement = #moe.placement<[#moe.replica<0 : i64, @all>, #moe.replica<1 : i64, @left>, #moe.replica<1 : i64, @right>, #moe.replica<2 : i64, @right>]>, residency = #moe.residency<{msb = array<i64: 0, 1, 2>, whole = array<i64>}>, residual_bytes = 6144 : i64, sym_name = "layer0", top_k = 2 : i64} : () -> ()
  "moe.draft"() {acceptance_rate = 0.5, acceptance_source = "hand", bits = 4 : i64, break_even_acceptance = 0.5, dense_bits = 8 : i64, dense_bytes = 35600 : i64, expert_bytes = 22264 : i64, expert_fraction = 0.75, kv_banks = 0 : i64, kv_bytes = 1024 : i64, length = 1 : i64, staging_bytes = 26112 : i64} : () -> ()
  "moe.dispatch"() {ask_borders = array<i64>, engine = "free", late = "load", least_permille = 0 : i64, likelihoods = [[array<i64: 500>]], most_far_tokens = 0 : i64, order = "program", recent_borders = array<i64>, share_borders = array<i64>, sure_permille = 1001 : i64} : () -> ()
  func.func @draft_step(%t: !t1) -> !l {
    %0 = "moe.embed"(%t) {row_bytes = 128 : i64} : (!t1) -> !h1
    %1 = "moe.attention"(%0) {attention_macs = 256 : i64, gathered_elements = 192 : i64, kv_heads = 2 : i64, merged_elements = 0 : i64, state_bytes = 0 : i64, kv_elements = 128 : i64, layer = 0 : i64, macs_per_token = 24576 : i64, weight_bytes = 26368 : i64, window = 0 : i64} : (!h1) -> !h1
    %2 = "moe.router"(%1) {layer = 0 : i64, macs_per_token = 256 : i64, weight_bytes = 400 : i64} : (!h1) -> !r
    %4 = "moe.experts"(%1, %2) {slice = "msb", store = @layer0} : (!h1, !r) -> !h1
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

// CHECK: experts of @layer0 compute on resident slices, but their routing is not restricted to residents
