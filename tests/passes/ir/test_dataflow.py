"""The dataflow of the IR means something: change it, and the result changes, or one message says what is wrong."""

import re

import pytest
from moe_passes.ir.base import Context
from moe_passes.ir.dialects import context, parse
from moe_passes.ir.module import text_of
from moe_passes.ir.pipeline import parse_pipeline, run_pipeline, written
from moe_passes.plan.errors import InputError

from moe_compiler.compilation import read_profile

REST = (
    "select-draft,partition-experts,choose-dispatch,lower-to-tasks,schedule-round,allocate-staging,steady-state,"
    "verify-plan"
)


@pytest.fixture(scope="module")
def raised(compiled):
    """The raised module without locations, which would differ."""
    return str(parse(dict(compiled.snapshots)["raise-moe"], "raised.mlir", context()))


def run(text, pipeline=REST):
    module = parse(text, "edited.mlir", context())
    run_pipeline(module, parse_pipeline(pipeline), Context(lambda module: read_profile(module, None)))
    return str(module)


@pytest.fixture(scope="module")
def whole(raised):
    return run(raised)


def function(text, name):
    """Return a function's text, and where it stands."""
    first = text.index(f"func.func @{name}")
    last = text.index("\n  }\n", first) + len("\n  }\n")
    return text[first:last], first, last


def edited(text, name, change):
    body, first, last = function(text, name)
    return text[:first] + change(body) + text[last:]


def test_cse_and_canonicalize_before_any_pass_change_no_plan(raised, whole):
    assert run(raised, f"cse,canonicalize,{REST}") == whole
    names = REST.split(",")
    between = ",canonicalize,".join(names)
    assert run(raised, between) == whole


def test_a_dead_duplicate_router_changes_nothing(raised, whole):
    def duplicate(body):
        router = next(line for line in body.splitlines() if '"moe.router"' in line)
        twin = re.sub(r"%\d+ = ", "%dead = ", router)
        return body.replace(router, f"{router}\n{twin}", 1)

    for name in ("draft_step", "verify_step"):
        text = run(edited(raised, name, duplicate))
        decisions = re.findall(r'"moe\.(?:draft|expert_store|dispatch)".*', text)
        assert decisions == re.findall(r'"moe\.(?:draft|expert_store|dispatch)".*', whole)
        assert re.findall(r'"sched\..*', text) == re.findall(r'"sched\..*', whole)


@pytest.mark.parametrize("name", ["draft_step", "verify_step"])
def test_a_phase_that_is_deleted_is_missed(raised, name):
    with pytest.raises(InputError, match="select-draft needs the phases"):
        run(edited(raised, name, lambda body: ""))


def every_layer_reads_the_embedding(body):
    return re.sub(r'"moe.attention"\(%\d+\)', '"moe.attention"(%0)', body)


def test_a_draft_whose_layers_all_read_the_embedding_is_another_round(raised, whole):
    text = run(edited(raised, "draft_step", every_layer_reads_the_embedding))
    tasks, before = (re.findall(r'"sched.task".*', t) for t in (text, whole))
    assert tasks != before
    # The experts of the first layers are used by nobody: their draft tasks are gone.
    assert sum("draft_experts" in task for task in tasks) < sum("draft_experts" in task for task in before)


def test_a_verify_step_whose_layers_all_read_the_embedding_computes_one_layer_of_experts(raised):
    text = run(edited(raised, "verify_step", every_layer_reads_the_embedding))
    layers = set(re.findall(r"#sched.expert<(@layer\d)", text))
    assert layers == {"@layer2"}


def test_two_stores_of_one_name_are_refused(raised):
    with pytest.raises(InputError, match=r"redefinition of symbol|does not match store|does not exist"):
        run(raised.replace('sym_name = "layer1"', 'sym_name = "layer0"'))


def test_a_second_attention_of_a_layer_is_refused_with_its_line(raised):
    def again(body):
        line = next(line for line in body.splitlines() if '"moe.attention"' in line)
        number = re.match(r"\s*%(\d+)", line).group(1)
        twin = line.replace(f"%{number} = ", "%twin = ") + ' loc("model.py":12:0)'
        users = body.replace(f'"moe.router"(%{number})', '"moe.router"(%twin)', 1)
        return users.replace(line, f"{line}\n{twin}", 1)

    with pytest.raises(InputError, match=r"@verify_step at model.py:12: a second 'attention' of layer 0"):
        run(edited(raised, "verify_step", again))


def test_verify_plan_derives_tasks_from_the_functions(whole):
    """The scheduled round stays, the phase that it was made from is another: verify-plan sees that they differ."""
    text = edited(whole, "verify_step", every_layer_reads_the_embedding)
    with pytest.raises(InputError, match="the plan is wrong"):
        run(text, "verify-plan")
    heavier = edited(
        whole, "draft_step", lambda body: body.replace("macs_per_token = 24576", "macs_per_token = 24577", 1)
    )
    with pytest.raises(InputError, match="the plan is wrong"):
        run(heavier, "verify-plan")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (r"#moe\.placement<\[.*?\]>", "#moe.open", "needs the placement"),
        (r"#moe\.placement<\[.*?\]>", "#moe.placement<[]>", "residents without banks"),
        (r"#moe\.residency<\{.*?\}>", "#moe.open", "residency of @layer0 is open"),
        (r"banks = array<i64: [0-9, ]+>", "banks = array<i64: 27>", "beyond the last of 16 banks"),
        (r"#sched\.slot<\d+ : i64, 0 : i64>, step", "#sched.open, step", "needs the schedule"),
        (r"#sched\.address<\d+ : i64>", "#sched.open", "needs staging addresses"),
        (r"#sched\.address<\d+ : i64>", "#sched.address<64000000 : i64>", "outside staging"),
        (r'"moe\.dispatch"\(\).*\n', "\n", "needs the dispatcher's plan"),
        (r'"sched\.steady"\(\).*\n', "\n", "needs the steady state"),
        (r"period_ns = \d+", "period_ns = 7", "steady state"),
        (r"drafted = dense<\[\[\[\d+", "drafted = dense<[[[15", "draft token"),
        (r"(#sched\.load<@layer\d, )\d+", r"\g<1>15", "the plan is wrong"),
        (r"#sched\.mode<\d+", "#sched.mode<1", "has a mode of 1 ns"),
    ],
)
def test_decisions_that_are_gone_or_wrong_are_refused(whole, old, new, message):
    text, count = re.subn(old, new, whole, count=1)
    assert count == 1
    with pytest.raises(InputError, match=message):
        run(text, "verify-plan")


def test_locations_survive_to_the_tasks(compiled):
    module = parse(dict(compiled.snapshots)["verify-plan"], "plan.mlir", context())
    text = text_of(module)
    assert text == dict(compiled.snapshots)["verify-plan"]
    for kind in ("moe.attention", "moe.router", "moe.experts", "moe.head", "sched.task"):
        line = next(line for line in text.splitlines() if f'"{kind}"' in line)
        alias = re.search(r"loc\((#loc\d+)\)$", line).group(1)
        found = re.search(rf"^{alias} = loc\((.*)\)$", text, re.MULTILINE).group(1)
        assert "transformers/models/qwen3_moe/modeling_qwen3_moe.py" in found
    assert "site-packages" not in text


def test_a_pipeline_prints_as_it_was_written():
    assert written(parse_pipeline(f"cse,{REST}")) == f"cse,{REST}"
