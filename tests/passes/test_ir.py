"""FileCheck-style tests: what each pass writes, on a tiny real model."""

import pytest
from filecheck.finput import FInput
from filecheck.matcher import Matcher
from filecheck.options import parse_argv_options
from filecheck.parser import Parser, pattern_for_opts

SNAPSHOTS = {
    "trace": """
// CHECK: "moe.model"() {{.*}}architecture = "Qwen3MoeForCausalLM"
// CHECK: "moe.workload"() {batch = 1 : i64, context = 64 : i64, draft_length = 3 : i64
// CHECK: func.func @draft_step(%[[TABLE:[^:]+]]: !torch.vtensor<[128,64],bf16>
// CHECK-SAME: {moe.parameter = "model.embed_tokens.weight"}
// CHECK: torch.operator "torch.moe.attention"
// CHECK: torch.operator "torch.moe.experts"
// CHECK: func.func @verify_step
// CHECK-SAME: !torch.vtensor<[1,?],si64>
// CHECK: module @target
// CHECK: "moe.memory"() {{.*}}name = "hb"
// CHECK: "moe.memory"() {{.*}}name = "external"
// CHECK: "moe.link"() {{.*}}name = "aggregation"
""",
    "raise-moe": """
// CHECK: "moe.expert_store"() {experts = 16 : i64, layer = 0 : i64, msb_bytes = 6912 : i64, name = "layer0",
// CHECK-SAME: parameters = 12288 : i64, residual_bytes = 6144 : i64, top_k = 4 : i64}
// CHECK: "moe.profile"() {draft_routing = "assumed", kind = "synthetic"
// CHECK-NOT: torch.
// CHECK: func.func @draft_step(%[[TOKENS:.*]]: !moe.tokens<1 : i64, 1 : i64>) -> !moe.logits<128 : i64>
// CHECK-NEXT: %[[EMBEDDED:.*]] = "moe.embed"(%[[TOKENS]])
// CHECK-NEXT: %[[HIDDEN:.*]] = "moe.attention"(%[[EMBEDDED]]) {{.*}}kv_elements = 128 : i64, layer = 0 : i64
// CHECK-NEXT: %[[ROUTING:.*]] = "moe.router"(%[[HIDDEN]]) {{.*}} -> !moe.routing<16 : i64, 4 : i64>
// CHECK-NEXT: %[[ROUTED:.*]] = "moe.experts"(%[[HIDDEN]], %[[ROUTING]]) {store = @layer0}
// CHECK-NEXT: "moe.add"(%[[HIDDEN]], %[[ROUTED]])
// CHECK: "moe.head"
// CHECK: func.func @verify_step(%{{.*}}: !moe.tokens<1 : i64, -1 : i64>)
""",
    "select-draft": """
// CHECK: "moe.expert_store"() {{.*}}residency = array<i64: {{[01, ]+}}>
// CHECK: "moe.draft"() {acceptance_rate = {{.*}}bits = 4 : i64{{.*}}length = 3 : i64
// CHECK: "moe.solver"() {{.*}}pass_name = "select-draft"
""",
    "partition-experts": """
// CHECK: "moe.expert_store"() {{.*}}replicas = array<i64: {{[0-9]+}}, 16, 0, 1, 2, 3
// CHECK: "moe.solver"() {{.*}}pass_name = "partition-experts"
""",
    "lower-to-tasks": """
// CHECK: func.func @round()
// CHECK: %[[EXTERNAL:.*]] = "sched.resource"() {capacity = 1 : i64, kind = "unit", name = "external"}
// CHECK: %[[BANKS:.*]] = "sched.resource"() {capacity = 1 : i64, kind = "unit", name = "banks0
// CHECK: %[[STAGING:.*]] = "sched.resource"() {{.*}}kind = "buffer", name = "staging"
// CHECK: %[[ROUTER:.*]] = "sched.task"({{.*}}) {{.*}}kind = "attention", layer = 0 : i64{{.*}}step = 0 : i64
// CHECK: %[[LOAD:.*]] = "sched.task"(%{{.*}}, %[[EXTERNAL]], %{{.*}}) {{.*}}kind = "load"
// CHECK: "sched.task"(%{{.*}}, %[[LOAD]], %[[BANKS]]{{[,)].*}}kind = "expert"
// CHECK: "sched.buffer"(%[[LOAD]], %{{.*}}, %[[STAGING]]) {amount = 6528 : i64}
""",
    "schedule-round": """
// CHECK: "moe.solver"() {{.*}}pass_name = "schedule-round"
// CHECK: "sched.task"({{.*}}) {{.*}}mode = 0 : i64{{.*}}start_ns = 0 : i64
""",
    "allocate-staging": """
// CHECK: "moe.solver"() {{.*}}pass_name = "allocate-staging", seed = 0 : i64, status = "optimal", unit = "bytes"
// CHECK: "sched.buffer"({{.*}}) {amount = 6528 : i64, offset_bytes = {{[0-9]+}} : i64}
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


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("top_k = 4 : i64", "top_k = 40 : i64", "routes to 40 of 16 experts"),
        ('kind = "synthetic"', 'kind = "guessed"', "'kind' must be"),
        ("batch = 1 : i64", "batch = 0 : i64", "'batch' is 0"),
        ("!moe.routing<16 : i64, 4 : i64>", "!moe.routing<17 : i64, 4 : i64>", "does not match store"),
        ("store = @layer0", "store = @layer9", "does not exist"),
        ("start_ns = 0 : i64", "start_ns = -1 : i64", "'start_ns' is negative"),
        ("mode = 0 : i64", "mode = 5 : i64", "a mode that does not exist"),
        ("capacity = 1 : i64", "capacity = -1 : i64", "'capacity' is negative"),
        ("residency = array<i64: ", "residency = array<i64: 7, ", "'residency' must hold"),
    ],
)
def test_verifiers_refuse_what_is_wrong(compiled, old, new, message):
    from moe_passes.dialects import context, parse
    from moe_passes.errors import InputError

    text = dict(compiled.snapshots)["verify-plan"]
    assert old in text
    with pytest.raises(InputError, match=message):
        parse(text.replace(old, new), "plan.mlir", context())
