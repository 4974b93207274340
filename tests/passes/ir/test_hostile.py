"""Any MLIR text gives a result or one clear refusal, whatever attributes and numbers are replaced by."""

import random
import re

import pytest
from moe_passes.ir.base import Context
from moe_passes.ir.dialects import context, parse
from moe_passes.ir.pipeline import parse_pipeline, run_pipeline
from moe_passes.plan.errors import InputError
from torch_mlir import ir

import moe_compiler
from moe_compiler.compilation import read_profile

VALUES = (
    '"word"', "unit", "[]", "[1]", "{}", "{a = 1 : i64}", "@symbol", "i32", "true", "1.5 : f64",
    "0x7FF0000000000000 : f64",
    "-7 : i64", "0 : i64", "3 : i64", "9223372036854775807 : i64", "7 : i32", "7 : index",
    "170141183460469231731 : i128",
    "array<i64>", "array<i64: -1, 99>", "array<i32: 1>", "dense<1> : tensor<2xi64>", "dense<1.0> : tensor<2x2xf64>",
    "#moe.open", "#sched.open", "#moe.residency<{}>", "#moe.placement<[1]>", "#sched.slot<0 : i64, 0 : i64>",
    "#sched.load<@layer0, 0 : i64>", "#sched.mode<1 : i64, array<i64: 1>>", '#sched.traffic<{x = "y"}>',
)  # fmt: skip
LITERALS = ('"word"', "-1 : i64", "9223372036854775807 : i64", "1.0 : f64", "@nowhere", "unit", "[]", "true", "5 : i8")
NEXT = {
    "trace": "raise-moe",
    "raise-moe": "select-draft",
    "select-draft": "partition-experts",
    "partition-experts": "choose-dispatch",
    "choose-dispatch": "lower-to-tasks",
    "lower-to-tasks": "schedule-round{time-limit=0.01}",
    "schedule-round": "allocate-staging,steady-state",
    "verify-plan": "verify-plan",
}
"""The pass that reads each snapshot."""


@pytest.fixture(scope="module")
def snapshots(tmp_path_factory):
    """The smallest whole compile: one layer of four experts, two of them resident, γ = 1."""
    from tests.conftest import write_tiny

    folder = write_tiny(tmp_path_factory.mktemp("smallest"), num_hidden_layers=1, num_experts=4, num_experts_per_tok=2)
    overrides = ["memories.hb.capacity_gb=0.000085", "memories.hb.banks=2"]
    found = moe_compiler.compile(folder, "elmoe3d-4gb", overrides=overrides, draft_length=1, context=4, time_limit=0.1)
    assert 0 < found.plan["draft"]["expert_fraction"] < 1
    return dict(found.snapshots)


def survives(text, pipeline):
    """Run a pipeline on a text; anything but a result or a refusal is raised."""
    try:
        module = parse(text, "fuzz.mlir", context())
        run_pipeline(module, parse_pipeline(pipeline), Context(lambda module: read_profile(module, None)))
    except InputError:
        return False
    return True


def operations(module):
    def walk(op):
        yield op
        for region in op.operation.regions:
            for block in region.blocks:
                for inner in block.operations:
                    yield from walk(inner)

    return [op for op in walk(module.operation) if op.operation.name.startswith(("moe.", "sched."))]


def printed(module):
    return str(module.operation.get_asm(print_generic_op_form=True, assume_verified=True))


def replaced_attributes(text, choose, count):
    """Yield texts in which one attribute of one operation is something else, or missing."""
    module = parse(text, "fuzz.mlir", context())
    places = [(op, name) for op in operations(module) for name in list(op.attributes)]
    for op, name in choose.choices(places, k=count):
        value, old = choose.choice((*VALUES, None)), op.attributes[name]
        with module.context, ir.Location.unknown():
            if value is None:
                del op.attributes[name]
            else:
                op.attributes[name] = ir.Attribute.parse(value)
        yield printed(module)
        op.attributes[name] = old


def replaced_literals(text, choose, count):
    """Yield texts in which one number, wherever it stands, is something else."""
    places = [m.span() for m in re.finditer(r"\d+ : i64", text)]
    for _ in range(count):
        first, last = choose.choice(places)
        yield text[:first] + choose.choice(LITERALS) + text[last:]


@pytest.mark.parametrize("snapshot", list(NEXT))
def test_replaced_attributes_are_refused_or_compiled(snapshots, snapshot):
    texts = replaced_attributes(snapshots[snapshot], random.Random(snapshot), 60)
    assert sum(not survives(text, NEXT[snapshot]) for text in texts) > 0


@pytest.mark.parametrize("snapshot", [name for name in NEXT if name != "trace"])
def test_replaced_numbers_are_refused_or_compiled(snapshots, snapshot):
    for text in replaced_literals(snapshots[snapshot], random.Random(snapshot), 45):
        survives(text, NEXT[snapshot])


EDITS = {
    "bytes that are no text": (r'name = "external"', r'name = "ext\\FFernal"', "valid: UTF-8"),
    "a nested symbol": (r"#sched.load<@layer0, ", r"#sched.load<@layer0::@x, ", "valid"),
    "an expert that does not exist": (
        r"(#sched.draft_experts<@layer0, array<i64: )\d", r"\g<1>9", "valid"),
    "two replicas for an expert": (
        r"(#sched.draft_experts<@layer0, array<i64: [\d, ]*>, array<i64: )", r"\g<1>0, ", "one replica for each"),
    "a tensor of billions": (
        r"verify = dense<[^:]*: tensor<2x2xi64>", "verify = dense<1> : tensor<1000000000x2xi64>", "elements"),
    "banks without end": (r'name = "banks0-1"', 'name = "banks' + "0-9999," * 3000 + '0-1"', "wrong"),
    "deep nesting": (r"moe.version", "x = " + "[" * 10_000 + "]" * 10_000 + ", moe.version", "nested"),
    "deep types": (r"moe.version", "x = " + "tuple<" * 10_000 + ">" * 10_000 + ", moe.version", "nested"),
    "an argument": (r"func.func @round\(\)", "func.func @round(%x: !sched.token)", "arguments"),
    "another width": (r"-> !moe.logits<128 : i64>", "-> !moe.logits<5 : i64>", "valid"),
    "another batch": (r"!moe.tokens<1 : i64", "!moe.tokens<2 : i64", "takes"),
    "another version": (r"moe.version = 6", "moe.version = 1", "version"),
    "a word for a number": (r"lower_bound = [^,]*, objective", 'lower_bound = "a", objective', "number"),
    "external memory held as bytes": (
        r'kind = "unit", name = "external"', 'kind = "buffer", name = "external"', "used by tasks"),
}  # fmt: skip


@pytest.mark.parametrize("name", list(EDITS))
def test_an_edit_of_a_whole_plan_is_refused_for_what_it_is(snapshots, name):
    old, new, word = EDITS[name]
    text, count = re.subn(old, new, snapshots["verify-plan"])
    assert count
    with pytest.raises(InputError, match=word):
        run_pipeline(
            parse(text, "edited.mlir", context()),
            parse_pipeline("verify-plan"),
            Context(lambda module: read_profile(module, None)),
        )


def test_comments_and_texts_may_hold_brackets_and_versions(snapshots):
    remark = "// moe.version = 6 " + "(" * 200 + "\n"
    assert survives(remark + snapshots["verify-plan"], "verify-plan")


OURS = "module attributes {moe.version = 6 : i64} {}\n"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("#a1 = [#a2]\n#a2 = [\n#a1\n]\n", "a:4: alias #a1 is defined by itself"),
        ("".join(f"#a{n} = [#a{n - 1}, #a{n - 1}]\n" for n in range(1, 60)), "makes more than 67,108,864 letters"),
        ("".join(f"!t{n} = tuple<!t{n - 1}, !t{n - 1}>\n" for n in range(1, 60)), "makes more than 67,108,864 letters"),
        (" ".join(f"#{n} = [#{n - 1}, #{n - 1}]" for n in range(1, 60)), "makes more than 67,108,864 letters"),
        ("".join(f"#a{n} =\n [#a{n - 1}, #a{n - 1}]\n" for n in range(1, 60)), "makes more than 67,108,864 letters"),
        (
            "".join(f"!t{n} = () ->\n (!t{n - 1}, !t{n - 1})\n" for n in range(1, 60)),
            "makes more than 67,108,864 letters",
        ),
        (
            "".join(f"!t{n} = ()\n -> (!t{n - 1}, !t{n - 1})\n" for n in range(1, 60)),
            "makes more than 67,108,864 letters",
        ),
        ("".join(f"#a{n} = loc(callsite(#a{n - 1} at #a{n - 1}))\n" for n in range(1, 60)), "makes more than"),
        ("".join(f"#a{n} = [#a{n - 1}]\n" for n in range(1, 3000)), "alias #a50 is nested more than 100 deep"),
        (
            "".join(f"#a{n} = {'[' * 40}#a{n - 1}{']' * 40}\n" for n in range(1, 9)),
            "alias #a3 is nested more than 100 deep",
        ),
        ("".join(f"#a{n} = [#a{n - 1}]\n" for n in range(2999, 0, -1)), "is nested more than 100 deep"),
        ("#a1 = [1]\n\0", "a:5: a zero byte"),
    ],
    ids=[
        "circle",
        "attributes",
        "types",
        "in one line",
        "after the line",
        "cut after ->",
        "cut before ->",
        "locations",
        "chain",
        "chain of nests",
        "chain from its end",
        "zero byte",
    ],
)
def test_what_aliases_stand_for_is_bounded(text, says):
    """A text of 60 lines may stand for 2^60 letters."""
    with pytest.raises(InputError, match=re.escape(says)):
        parse("#a0 = [1]\n#0 = 1\n!t0 = i32\n" + text + OURS, "a", context())


def test_aliases_are_read():
    text = "#a = [1, 2]\n#b = [\n  #a,\n  #a\n]\n#c = #b\nmodule attributes {moe.version = 6 : i64, a.b = #c} {}\n"
    assert "a.b = [[1, 2], [1, 2]]" in str(parse(text, "a", context()))
