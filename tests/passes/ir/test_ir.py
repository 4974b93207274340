"""FileCheck-style tests: what each pass writes, on a tiny real model."""

import pytest
from filecheck.finput import FInput
from filecheck.matcher import Matcher
from filecheck.options import parse_argv_options
from filecheck.parser import Parser, pattern_for_opts

SNAPSHOTS = {
    "trace": """
// CHECK: module attributes {moe.version = 6 : i64}
// CHECK: "moe.model"() {{.*}}architecture = "Qwen3MoeForCausalLM"
// CHECK: "moe.request"() {batch = 1 : i64, context = 64 : i64, cost_model = "analytic", draft_length = 3 : i64
// CHECK: func.func @draft_step(%[[TABLE:[^:]+]]: !torch.vtensor<[128,64],bf16>
// CHECK-SAME: {moe.parameter = "model.embed_tokens.weight"}
// CHECK: torch.operator "torch.moe.attention"
// CHECK: torch.operator "torch.moe.experts"
// CHECK: func.func @verify_step
// CHECK-SAME: !torch.vtensor<[1,?],si64>
// CHECK: module @target
// CHECK: "moe.memory"() {{.*}}sym_name = "hb"
// CHECK: "moe.memory"() {{.*}}sym_name = "external"
// CHECK: "moe.link"() {{.*}}sym_name = "aggregation"
""",
    "raise-moe": """
// CHECK: "moe.expert_store"() {experts = 16 : i64, layer = 0 : i64, msb_bytes = 6912 : i64, needed = #moe.open,
// CHECK-SAME: parameters = 12288 : i64, placement = #moe.open, residency = #moe.open, residual_bytes = 6144 : i64,
// CHECK-SAME: sym_name = "layer0", top_k = 4 : i64}
// CHECK: "moe.profile"() {draft_routing = "assumed", kind = "synthetic"
// CHECK-NOT: torch.aten
// CHECK: func.func @draft_step(%[[TOKENS:[^:]*]]: !moe.tokens<1 : i64, 1 : i64>{{.*}}) -> !moe.logits<128 : i64>
// CHECK-NEXT: %[[EMBEDDED:.*]] = "moe.embed"(%[[TOKENS]])
// CHECK-NEXT: %[[HIDDEN:.*]] = "moe.attention"(%[[EMBEDDED]]) {{.*}}kv_heads = 2 : i64, layer = 0 : i64
// CHECK-NEXT: %[[ROUTING:.*]] = "moe.router"(%[[HIDDEN]]) {{.*}} -> !moe.routing<16 : i64, 4 : i64>
// CHECK-NEXT: %[[ROUTED:.*]] = "moe.experts"(%[[HIDDEN]], %[[ROUTING]]) {slice = "whole", store = @layer0}
// CHECK-NEXT: "moe.add"(%[[HIDDEN]], %[[ROUTED]])
// CHECK: "moe.head"
// CHECK: func.func @verify_step(%{{.*}}: !moe.tokens<1 : i64, -1 : i64>
// CHECK: loc("transformers/models/qwen3_moe/modeling_qwen3_moe.py"
""",
    "select-draft": """
// CHECK: "moe.run.select-draft" = #moe.run<[{
// CHECK: "moe.expert_store"() {{.*}}residency = #moe.residency<{msb = array<i64: {{[0-9, ]+}}>, whole = array<i64>}>
// CHECK: "moe.draft"() {acceptance_rate = {{.*}}bits = 4 : i64{{.*}}kv_banks = {{[0-9]+}} : i64{{.*}}length = 3 : i64
// CHECK: "moe.hot_set"() {every_rounds = {{[0-9]+}} : i64, most = {{[0-9]+}} : i64, window_tokens = {{[0-9]+}} : i64}
// CHECK: func.func @draft_step
// CHECK: %[[ROUTING:.*]] = "moe.router"
// CHECK-NEXT: %[[RESTRICTED:.*]] = "moe.restrict"(%[[ROUTING]]) {store = @layer0}
// CHECK-NEXT: "moe.experts"(%{{.*}}, %[[RESTRICTED]]) {slice = "msb", store = @layer0}
// CHECK: func.func @verify_step
// CHECK-NOT: moe.restrict
""",
    "partition-experts": """
// CHECK: "moe.run.partition-experts"
// CHECK: "moe.bank_set"() {banks = array<i64: {{[0-9, ]+}}>, sym_name = "[[BANKS:banks[0-9]+]]"}
// CHECK: "moe.expert_store"() {{.*}}placement = #moe.placement<[#moe.replica<{{[0-9]+}} : i64, @banks
""",
    "choose-dispatch": """
// CHECK: "moe.expert_store"() {{.*}}needed = #moe.permille<array<i64: {{[0-9]+}}, {{.*}}placement
// CHECK: "moe.dispatch"() {ask_borders = array<i64: 1, 2, 3, 5, 9, 17>, engine = "{{free|first}}"
// CHECK-SAME: likelihoods = {{\\[\\[}}array<i64
""",
    "lower-to-tasks": """
// CHECK: func.func @round()
// CHECK: "sched.routing"() {asked = dense<{{.*}}> : tensor<3x1x4xi64>, {{.*}}store = @layer0, verify = dense<
// CHECK: %[[EXTERNAL:.*]] = "sched.resource"() {capacity = 1 : i64, kind = "unit", name = "external"}
// CHECK: %[[BANKS:.*]] = "sched.resource"() {capacity = 1 : i64, kind = "unit", name = "banks0
// CHECK: %[[STAGING:.*]] = "sched.resource"() {{.*}}kind = "buffer", name = "staging"
// CHECK: %[[ROUTER:.*]] = "sched.task"({{.*}}) {{.*}}slot = #sched.open, step = 0 : i64{{.*}}#sched.dense<0 : i64>
// CHECK: %[[LOAD:.*]] = "sched.task"(%{{.*}}, %[[EXTERNAL]]) {{.*}}work = #sched.load<@layer0,
// CHECK: "sched.task"(%{{.*}}, %[[LOAD]], %[[BANKS]]{{[,)].*}}work = #sched.expert<@layer0,
// CHECK: "sched.buffer"(%[[LOAD]], %{{.*}}, %[[STAGING]]) {address = #sched.open, amount = 6528 : i64}
""",
    "schedule-round": """
// CHECK: "moe.run.schedule-round"
// CHECK: "sched.task"({{.*}}) {{.*}}slot = #sched.slot<0 : i64, 0 : i64>
// CHECK-NOT: slot = #sched.open
""",
    "allocate-staging": """
// CHECK: "moe.run.allocate-staging" = #moe.run<[{{.*}}seed = 0 : i64, status = "optimal", unit = "bytes"}
// CHECK: "sched.buffer"({{.*}}) {address = #sched.address<{{[0-9]+}} : i64>, amount = 6528 : i64}
""",
    "steady-state": """
// CHECK: "sched.steady"({{.*}}) {lower_bound_ns = {{[0-9]+}} : i64, {{.*}}period_ns = {{[0-9]+}} : i64, slots = [
""",
}


def filecheck(text: str, checks: str, tmp_path) -> None:
    (tmp_path / "checks").write_text(checks)
    options = parse_argv_options(["filecheck", str(tmp_path / "checks")])
    parser = Parser(options, (tmp_path / "checks").open(), *pattern_for_opts(options))
    assert Matcher(options, FInput("ir", text), parser).run() == 0


@pytest.mark.parametrize("name", list(SNAPSHOTS))
def test_snapshot(compiled, tmp_path, name):
    filecheck(dict(compiled.snapshots)[name], SNAPSHOTS[name], tmp_path)


def test_filecheck_can_fail(compiled, tmp_path):
    with pytest.raises(AssertionError):
        filecheck(dict(compiled.snapshots)["raise-moe"], "// CHECK: moe.nothing\n", tmp_path)


def test_measured_acceptance_must_fall_with_the_tokens():
    from moe_passes.ir.dialects import context, parse
    from moe_passes.plan.errors import InputError

    def parsed(shares, length=2):
        op = (
            f'"moe.acceptance"() {{expert_bits = 4 : i64, dense_bits = 8 : i64, share = 0.5, rate = 0.5, '
            f'length = {length} : i64, survival_ppm = array<i64{shares}>, source = "mine"}} : () -> ()'
        )
        return parse(f"module attributes {{moe.version = 6 : i64}} {{\n{op}\n}}\n", "a.mlir", context())

    assert "survival_ppm" in str(parsed(": 800000, 500000"))
    parsed("")
    for shares, length, message in (
        (": 500000, 800000", 2, "none above the one before"),
        (": 500000", 2, "'length' numbers"),
        (": 1000001, 5", 2, "0 to 1000000"),
        ("", 0, "'length' is 0"),
    ):
        with pytest.raises(InputError, match=message):
            parsed(shares, length)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("top_k = 4 : i64", "top_k = 40 : i64", "routes to 40 of 16 experts"),
        ('kind = "synthetic"', 'kind = "guessed"', "'kind' must be"),
        ("batch = 1 : i64, c", "batch = 0 : i64, c", "'batch' is 0"),
        ('sym_name = "external"', 'sym_name = "hb"', "redefinition of symbol"),
        ('cost_model = "analytic"', 'cost_model = "oracle"', "valid: analytic"),
        ('slice = "msb"', 'slice = "lsb"', "'slice' is"),
        ("!moe.routing<16 : i64, 4 : i64>", "!moe.routing<17 : i64, 4 : i64>", "does not match store"),
        ("store = @layer0", "store = @layer9", "does not exist"),
        ("#sched.slot<0 : i64", "#sched.slot<-1 : i64", "start_ns is -1"),
        (" : i64, 0 : i64>, step", " : i64, 5 : i64>, step", "a mode that does not exist"),
        ("capacity = 1 : i64", "capacity = -1 : i64", "'capacity' is -1"),
        ("residency<{msb = array<i64: ", "residency<{msb = array<i64: 99, ", "'residency', msb is 99"),
        ('"moe.hot_set"() {every_rounds = 1', '"moe.hot_set"() {every_rounds = 0', "'every_rounds' is 0"),
        ("streams = 1 : i64", "streams = 2 : i64", "'streams' is 2"),
        ("#moe.replica<0 : i64, @banks", "#moe.replica<0 : i64, @bonks", "valid: a moe.bank_set"),
    ],
)
def test_verifiers_refuse_what_is_wrong(compiled, old, new, message):
    from moe_passes.ir.dialects import context, parse
    from moe_passes.plan.errors import InputError

    text = dict(compiled.snapshots)["verify-plan"]
    assert old in text
    with pytest.raises(InputError, match=message):
        parse(text.replace(old, new), "plan.mlir", context())
