"""A tiny model of every architecture with experts of which transformers has a causal language model."""

import functools
import json
from pathlib import Path

import pytest
from moe_passes.ir.dialects import context, parse
from moe_passes.ir.module import append, find, only, text_of
from moe_passes.ir.phases import read_stages
from moe_passes.ir.pipeline import parse_pipeline, run_pipeline
from moe_passes.plan.errors import InputError
from moe_passes.plan.known import KNOWN, known_as
from moe_passes.plan.model import ExpertLayer, ModelShape
from moe_passes.plan.request import Request
from moe_passes.tasks.stages import parts as parts_of

from moe_compiler.frontend import graph
from moe_compiler.frontend.models import ModelSource, load_model, shipped_models
from moe_compiler.runtime.huggingface import causal_classes

TINY = json.loads((Path(__file__).parents[1] / "architectures.json").read_text())
NO_EXPERTS = {
    "bamba": "its configuration counts experts, its layers have none",
    "doge": "its 16,384 experts are rows of a table",
    "dots3_note": "a wrapper of dots3_note_text",
    "gemma4": "a wrapper of gemma4_text",
    "llama4": "a wrapper of llama4_text",
    "qwen3_5_moe": "a wrapper of qwen3_5_moe_text",
    "qwen4_exp": "a wrapper of qwen4_exp_text",
}
"""Model types whose modelling code names experts, and that need no configuration of their own here."""


@pytest.fixture(scope="module", autouse=True)
def _small():
    """In place of the folder's fixture of that name: every trace here is a real one."""


def raised(name, config, batch=1):
    module = graph.trace(ModelSource(name, config), batch, context())
    append(module, Request(batch, 64, -1, 0, 1.0))
    run_pipeline(module, parse_pipeline("raise-moe"))
    return module


def test_every_architecture_with_experts_is_here():
    """The modelling code of transformers says which have experts: a new version with new ones is noticed."""
    import transformers
    from transformers.models.auto.configuration_auto import model_type_to_module_name

    root = Path(transformers.__file__).parent / "models"
    found = {
        kind
        for kind in causal_classes().values()
        if any(
            "num_experts" in path.read_text() for path in (root / model_type_to_module_name(kind)).glob("modeling_*.py")
        )
    }
    assert found - set(NO_EXPERTS) <= set(TINY)


@pytest.mark.parametrize("kind", sorted(TINY))
def test_every_parameter_is_somewhere(kind):
    """Routed experts, dense parts and tables add up to the model; vectors, which no product counts, are the rest."""
    module = raised(kind, TINY[kind])
    model, layers = only(module, ModelShape), [layer for _, layer in find(module, ExpertLayer)]
    parts = parts_of(read_stages(module, "test")[0])
    routed = sum(layer.experts * layer.parameters for layer in layers)
    tied = 0 if model.total_parameters >= routed + model.embedding_parameters else model.embedding_parameters
    rest = model.total_parameters - routed - model.embedding_parameters - sum(part.macs_per_token for part in parts)
    assert abs(rest + tied) < 0.05 * model.total_parameters
    silent = {part.layer for part in parts if not part.kv_elements and not part.state_bytes} - {model.layers}
    assert silent == ({1, 3} if kind == "nemotron_h" else set())
    assert {layer.experts for layer in layers} == {8}


@pytest.mark.parametrize(
    "kind", ["qwen3_moe", "deepseek_v3", "gpt_oss", "qwen3_next", "gemma4_text", "longcat_flash", "nemotron_h", "zaya"]
)
def test_layers_that_stand_for_others_give_what_the_whole_model_gives(kind, monkeypatch):
    """Six layers and more, of each kind one traced: the raised IR is that of the whole model, byte for byte."""
    one_of_each = text_of(raised(kind, TINY[kind]))
    monkeypatch.setattr(graph, "representatives", lambda layers, config: tuple(range(len(layers))))
    assert text_of(raised(kind, TINY[kind])) == one_of_each


@functools.cache
def plain_deepseek():
    return text_of(raised("x", TINY["deepseek_v3"]))


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({"model_type": "kimi_k2"}, "'kimi_k2' is taken as 'deepseek_v3'"),
        ({"num_nextn_predict_layers": 1}, "1 layers for multi-token prediction are left out"),
        ({"rope_theta": None, "output_router_logits": True, "torch_dtype": "auto"}, None),
        ({"rope_theta": "4", "max_position_embeddings": 10_485_760_000}, None),
        ({"rope_scaling": {"type": "yarn", "factor": 40, "mscale_all_dim": 1.0}}, None),
    ],
)
def test_what_decides_no_shape_stops_nothing(tmp_path, changes, note):
    (tmp_path / "config.json").write_text("\ufeff" + json.dumps(TINY["deepseek_v3"] | changes))
    source = load_model(tmp_path)
    assert [n for n in source.notes if note and n.startswith(note)] == list(source.notes)
    assert bool(source.notes) == (note is not None)
    assert text_of(raised("x", source.config)) == plain_deepseek()


def test_a_wrapper_is_its_language_model(tmp_path):
    wrapper = {"model_type": "qwen3_vl_moe", "vision_config": {"depth": "no"}, "text_config": TINY["qwen3_moe"]}
    wrapper["text_config"] = wrapper["text_config"] | {"model_type": "qwen3_vl_moe_text"}
    (tmp_path / "config.json").write_text(json.dumps(wrapper))
    source = load_model(tmp_path)
    assert source.config["model_type"] == "qwen3_moe"
    assert len(source.notes) == 2
    (tmp_path / "config.json").write_text(json.dumps({**wrapper, "text_config": {"model_type": "llama"}}))
    with pytest.raises(InputError, match="dense model"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "mine", "auto_map": {"AutoModel": "a.B"}}, "code of its own"),
        ({"model_type": "mine", "architectures": ["Qwen3MoeForCausalLM"]}, "set model_type to 'qwen3_moe'"),
    ],
)
def test_unknown_model_types_are_refused_with_what_to_do(tmp_path, changes, words):
    (tmp_path / "config.json").write_text(json.dumps(TINY["qwen3_moe"] | changes))
    with pytest.raises(InputError, match=words):
        graph.trace(load_model(tmp_path), 1, context())


def test_a_model_is_known_by_its_shape_not_by_its_name(tmp_path):
    """The published Qwen3-30B under any name is known; a toy under its name is not."""
    content = shipped_models()["qwen3-30b-a3b"].read_text()
    (tmp_path / "Qwen3-30B-A3B.json").write_text(content)
    (tmp_path / "qwen3-30b-a3b.json").write_text(json.dumps(TINY["qwen3_moe"]))
    real, toy = (load_model(tmp_path / name) for name in ("Qwen3-30B-A3B.json", "qwen3-30b-a3b.json"))
    shapes = [graph.shape_of(source, graph.prepared(source)) for source in (real, toy)]
    assert [known_as(shape) for shape in shapes] == ["qwen3-30b-a3b", ""]
    assert set(KNOWN) - set(shipped_models()) == set()


def test_a_part_that_is_nowhere_is_named(monkeypatch):
    """A model of which raise-moe would lose a part is refused: here its shared experts take no part in the step."""
    prepared = graph.prepared

    def without_shared_experts(source):
        model = prepared(source)
        for name, module in model.named_modules():
            if name.endswith("shared_experts"):
                module.forward = lambda x: x
        return model

    monkeypatch.setattr(graph, "prepared", without_shared_experts)
    with pytest.raises(InputError, match=r"of the parameters are in no part.*gate_proj"):
        raised("deepseek_v3", TINY["deepseek_v3"])


def test_more_layers_than_the_model_has_are_refused():
    module = graph.trace(ModelSource("olmoe", TINY["olmoe"]), 1, context())
    text = text_of(module).replace("like = array<i64: 0, 0, 0, 0>", "like = array<i64: 0, 0, 0, 0, 0>")
    longer = parse(text, "longer", context())
    append(longer, Request(1, 64, -1, 0, 1.0))
    with pytest.raises(InputError, match="of 5 layers; the model has 4"):
        run_pipeline(longer, parse_pipeline("raise-moe"))
