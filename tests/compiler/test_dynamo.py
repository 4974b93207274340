"""`torch.compile(backend="moe_compiler")`: the plan is that of the traced model, and the result is the same."""

import json

import pytest
import torch
from moe_passes.plan.errors import InputError

import moe_compiler
from moe_compiler import dynamo
from moe_compiler.frontend.captured import _joint, capture
from tests.conftest import tiny_config

OPTIONS = {
    "target": "elmoe3d-4gb",
    "overrides": ["memories.hb.capacity_gb=0.0003"],
    "context": 64,
    "draft_length": 2,
    "time_limit": 0.5,
}
TOKENS = torch.arange(16).view(2, 8)


@pytest.fixture(autouse=True)
def _anew():
    torch._dynamo.reset()
    dynamo._PLANNED.clear()


def built(kind, experts=None, **changes):
    from transformers import AutoConfig, AutoModelForCausalLM

    content = tiny_config(kind, **changes)
    content.pop("quantization_config", None)
    config = AutoConfig.for_model(content.pop("model_type"), **content)
    torch.manual_seed(0)
    options = {"experts_implementation": experts} if experts else {}
    return AutoModelForCausalLM.from_config(config, **options).eval()


@pytest.mark.parametrize(("kind", "experts"), [("qwen3_moe", None), ("mixtral", "batched_mm"), ("phimoe", None)])
def test_what_is_captured_makes_the_plan_of_what_is_traced(kind, experts, small, tmp_path):
    """The graph says all that a configuration says of a model without windows or latents."""
    model, heard = built(kind, experts), []
    compiled = torch.compile(model, backend="moe_compiler", options=OPTIONS | {"hear": heard.append})
    with torch.no_grad():
        assert torch.equal(compiled(input_ids=TOKENS, use_cache=False).logits, model(input_ids=TOKENS).logits)
    [found] = heard
    options = {name: value for name, value in OPTIONS.items() if name != "target"}
    traced = moe_compiler.compile(model.config, OPTIONS["target"], batch=2, **options)
    for part in ("layers", "draft", "hb", "dispatch", "round"):
        assert found.plan[part] == traced.plan[part], part
    assert found.cost["token"] == traced.cost["token"]
    assert found.cost["parameters"] == traced.cost["parameters"]


def test_a_plan_and_ir_are_left_where_they_are_asked_for_once(small, tmp_path):
    model, out = built("qwen3_moe"), tmp_path / "out"
    compiled = torch.compile(model, backend="moe_compiler", options=OPTIONS | {"output": out, "name": "mine"})
    with torch.no_grad():
        for tokens in (TOKENS, TOKENS[:, :5]):
            want = model(input_ids=tokens).logits
            assert torch.equal(compiled(input_ids=tokens, use_cache=False).logits, want)
    files = {path.name for path in out.iterdir()}
    assert {"plan.json", "cost.json", "held_out.json", "compile.json", "timeline.perfetto-trace", "ir"} <= files
    assert "schedule.py" not in files, "nothing could build the model from a graph"
    assert json.loads((out / "plan.json").read_text())["model"] == "mine"
    record = json.loads((out / "compile.json").read_text())
    assert record["arguments"]["model"] is None
    assert "captured by torch.compile" in record["notes"][0]


def test_a_model_is_planned_for_once_and_another_is_not_passed_over(small, tmp_path):
    heard, model, out = [], built("qwen3_moe"), tmp_path / "out"
    compiled = torch.compile(model, backend="moe_compiler", options=OPTIONS | {"hear": heard.append, "output": out})
    with torch.no_grad():
        for tokens in (TOKENS, TOKENS[:, :5], TOKENS[:, :3]):
            compiled(input_ids=tokens, use_cache=False)
    assert len(heard) == 1
    other = torch.compile(
        built("mixtral"), backend="moe_compiler", options=OPTIONS | {"hear": heard.append, "output": out}
    )
    with torch.no_grad(), pytest.raises(Exception, match="exists already"):
        other(input_ids=TOKENS, use_cache=False)
    assert len(heard) == 1


def test_what_runs_the_graph_is_a_choice(small):
    model = built("qwen3_moe")
    compiled = torch.compile(model, backend="moe_compiler", options=OPTIONS | {"inner": "aot_eager"})
    with torch.no_grad():
        want = model(input_ids=TOKENS).logits
        assert torch.allclose(compiled(input_ids=TOKENS, use_cache=False).logits, want, atol=1e-5)


def test_a_graph_without_experts_runs_as_it_is():
    layer = torch.nn.Linear(4, 4)
    compiled = torch.compile(layer, backend="moe_compiler")
    assert torch.equal(compiled(torch.ones(1, 4)), layer(torch.ones(1, 4)))


def test_options_that_are_none_are_refused():
    for options, words in (({"tarrget": "x"}, "did you mean 'target'"), ({"batch": 3}, "option 'batch'")):
        with pytest.raises(InputError, match=words):
            dynamo.parse(options)


def captured(model):
    graphs = []

    def backend(module, inputs):
        graphs.append(module)
        return module.forward

    with torch.no_grad():
        torch.compile(model, backend=backend)(input_ids=TOKENS, use_cache=False)
    return graphs[0]


def test_attention_that_is_written_out_is_refused_with_what_to_do():
    with pytest.raises(InputError, match="attn_implementation='sdpa'"):
        capture(captured(built("gpt_oss")))


def test_a_joint_is_where_all_that_is_behind_comes_together():
    def branches(x):
        a = x * 1.0
        return (a + 1.0) + (a * 2.0)

    graph = torch.fx.symbolic_trace(branches).graph
    _, *nodes = (node for node in graph.nodes if node.op != "output")
    for node in nodes:
        node.meta["val"] = torch.zeros(2, 4)
    order = {node: place for place, node in enumerate(graph.nodes)}
    assert _joint(set(nodes), order, 8, 4) is nodes[-1]
    assert _joint(set(nodes[:-1]), order, 8, 4) is None


@pytest.mark.parametrize("kind", ["qwen2_moe", "olmoe", "deepseek_v3"])
def test_experts_are_found_by_structure(kind):
    """Whatever the router's code: sigmoid and groups, shared experts, layers without experts."""
    model = built(kind)
    found = capture(captured(model))
    experts = [node for node in found.graph.nodes if node.target is torch.ops.moe.experts.default]
    first_dense = getattr(model.config, "first_k_dense_replace", 0)
    assert len(experts) == found.layer_count - first_dense == 3 - first_dense
    for node in experts:
        activation, index, weight, stacks = node.args
        assert activation.meta["val"].shape == (16, 64)
        assert index.meta["val"].shape == weight.meta["val"].shape == (16, model.config.num_experts_per_tok)
        assert not index.meta["val"].is_floating_point()
        assert len(stacks) == 2
    assert (found.batch, found.hidden, found.vocabulary) == (2, 64, 128)
    assert found.parameters == sum(p.numel() for p in model.parameters())
