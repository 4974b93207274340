import pytest
import torch
from moe_passes.ir.dialects import context
from moe_passes.ir.module import append, find, only
from moe_passes.ir.phases import read_stages
from moe_passes.ir.pipeline import parse_pipeline, run_pipeline
from moe_passes.plan.errors import InputError
from moe_passes.plan.model import ExpertLayer, ModelShape
from moe_passes.plan.request import Request
from moe_passes.tasks.stages import parts as parts_of

import moe_compiler
from moe_compiler.frontend.building import build_on_meta
from moe_compiler.frontend.functional import functionalise
from moe_compiler.frontend.graph import Step, trace
from moe_compiler.frontend.models import load_model, shipped_models, transformers_config
from tests.conftest import TINY, tiny_config

# docs/reference.md section 6: MoE layers, experts, top-k, total and active billions.
PUBLISHED = {
    "mixtral-8x7b": (32, 8, 2, 46.7, 12.9),
    "qwen3-30b-a3b": (48, 128, 8, 30.5, 3.3),
    "qwen1.5-moe-a2.7b": (24, 60, 4, 14.3, 2.7),
    "deepseek-v2-lite": (26, 64, 6, 15.7, 2.4),
    "deepseek-v3": (58, 256, 8, 671, 37),
    "olmoe-1b-7b": (16, 64, 8, 6.9, 1.3),
    "phi-3.5-moe": (32, 16, 2, 41.9, 6.6),
    "gpt-oss-20b": (24, 32, 4, 20.9, 3.6),
    "glm-4.7-flash": (46, 64, 4, 29.9, None),
}


@pytest.mark.parametrize("name", sorted(shipped_models()))
def test_every_shipped_configuration_is_one_that_transformers_builds(name):
    source = load_model(name)
    config = transformers_config(source).get_text_config()
    assert source.experts > source.top_k > 0
    assert config.hidden_size > 0
    assert "auto_map" not in source.config or source.notes or config.model_type == source.config["model_type"]


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_full_size_shapes_agree_with_what_is_published(name):
    """Build every shipped model at full size on `meta` and count; tracing all of them is `make table`."""
    layers, experts, top_k, total, active = PUBLISHED[name]
    model = build_on_meta(load_model(name))
    stacks = {n: p for n, p in model.named_parameters() if ".experts." in n}
    counted = sum(p.numel() for p in model.parameters())
    assert len([n for n in stacks if n.endswith("down_proj")]) == layers
    assert {p.shape[0] for p in stacks.values()} == {experts}
    assert model.config.num_experts_per_tok == top_k
    assert counted / 1e9 == pytest.approx(total, rel=0.01)
    if active is not None:
        used = counted - sum(p.numel() for p in stacks.values()) * (experts - top_k) / experts
        without = used - model.get_input_embeddings().weight.numel()
        assert min(abs(x / 1e9 - active) / active for x in (used, without)) < 0.05


def raised(source):
    module = trace(source, 2, context())
    append(module, Request(2, 64, -1, 0, 1.0))
    run_pipeline(module, parse_pipeline("raise-moe"))
    assert module.operation.verify()
    return module


@pytest.mark.parametrize("model_type", sorted(TINY))
def test_raise_accounts_for_every_parameter(tmp_path, tiny, model_type):
    """Every matrix is somebody's, once: routed experts, dense parts and the embedding add up to the model."""
    module = raised(load_model(tiny(model_type)))
    model, layers = only(module, ModelShape), [layer for _, layer in find(module, ExpertLayer)]
    parts = parts_of(read_stages(module, "test")[0])
    routed = sum(layer.experts * layer.parameters for layer in layers)
    matrices = sum(part.macs_per_token for part in parts)
    vectors = model.total_parameters - routed - model.embedding_parameters - matrices
    # Norms, biases and correction terms: 16 bits each. Matrices: 8.5 bits each.
    size = sum(part.weight_bytes for part in parts)
    assert 0 <= vectors < 0.05 * model.total_parameters
    assert size == pytest.approx((matrices * 8.5 + vectors * 16) / 8, abs=len(parts) * 4)
    text = str(module)
    assert ("shared = 1" in text) == (model_type in ("qwen2_moe", "deepseek_v2", "deepseek_v3", "glm4_moe_lite"))
    assert ("shared = 0" in text) == ("first_k_dense_replace" in TINY[model_type])


def test_golden_figures_of_one_tiny_layer(tiny):
    """By hand, hidden 64, 4 query and 2 KV heads of 32: q 64·128 + k, v 2·64·64 + o 128·64 = 24,576 weights."""
    module = raised(load_model(tiny("qwen3_moe")))
    part = parts_of(read_stages(module, "test")[0])[0]
    # … plus the router, 16·64.
    assert part.macs_per_token == 24_576 + 1_024
    # Norms: 64 before attention, 32 + 32 on queries and keys, 64 before the router, FP16.
    assert part.weight_bytes == round(24_576 * 8.5 / 8 + 128 * 2) + round(1_024 * 8.5 / 8 + 64 * 2)
    assert part.kv_elements == 2 * 2 * 32
    assert part.attention_macs == 4 * (32 + 32)
    assert part.gathered_elements == 4 * 32 + 64
    assert part.kv_bytes(10) == 10 * 128 * 2
    store = find(module, ExpertLayer)[0][1]
    # An expert: gate and up 2·64·64, down 64·64; 4.5 bits in the msb slice, 4 in the residual.
    assert (store.parameters, store.msb_bytes, store.residual_bytes) == (12_288, 6_912, 6_144)


def test_mxfp4_experts_have_no_residual(tiny):
    store = find(raised(load_model(tiny("gpt_oss"))), ExpertLayer)[0][1]
    assert store.residual_bytes == 0
    assert store.msb_bytes == round(store.parameters * 4.25 / 8)


@pytest.mark.parametrize("model_type", ["qwen3_moe", "deepseek_v3"])
def test_functionalised_graph_computes_what_the_model_computes(model_type):
    """The in-place operators are gone, and the graph still gives the same logits."""
    from transformers import AutoModelForCausalLM

    config = transformers_config(load_model_config(model_type))
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, experts_implementation="batched_mm").eval()
    tokens = torch.randint(0, 128, (2, 5))
    positions = torch.arange(5).expand(2, 5)
    with torch.no_grad():
        program = torch.export.export(Step(model), (tokens, positions), strict=False)
        functionalise(program.graph)
        program.graph_module.recompile()
        mutable = [n for n in program.graph.nodes if getattr(getattr(n.target, "_schema", None), "is_mutable", False)]
        assert mutable == []
        torch.testing.assert_close(program.module()(tokens, positions), Step(model)(tokens, positions))


def load_model_config(model_type):
    from moe_compiler.frontend.models import ModelSource

    return ModelSource(model_type, tiny_config(model_type))


def test_model_may_be_a_config_or_a_module():
    from transformers import AutoModelForCausalLM

    config = transformers_config(load_model_config("olmoe"))
    with torch.device("meta"):
        module = AutoModelForCausalLM.from_config(config)
    options = {"context": 16, "draft_length": 0, "time_limit": 0.1}
    first = moe_compiler.compile(config, "elmoe3d-4gb", **options)
    second = moe_compiler.compile(module, "elmoe3d-4gb", **options)
    assert first.cost["round"] == second.cost["round"]
    assert first.plan["draft"]["length"] == 0


@pytest.mark.parametrize("model", [3, torch.nn.Linear(2, 2), object()])
def test_things_that_are_no_model_are_refused(model):
    with pytest.raises(InputError, match="not a model that can be compiled"):
        moe_compiler.compile(model, "elmoe3d-8gb")


def test_save_refuses_an_existing_folder(compiled, tmp_path):
    with pytest.raises(InputError, match="exists already"):
        compiled.save(tmp_path)


@pytest.mark.parametrize(
    ("format", "expert", "msb", "dense", "kv", "dense_bits"),
    [
        ("bf16", 12_288 * 2, 12_288 * 2, 16, 128, 8),
        ("experts=4,dense=8,kv=8", 12_288 // 2, 12_288 // 2, 8, 64, 8),
        (None, 13_056, 6_912, 8.5, 128, 4),
    ],
)
def test_a_format_decides_bytes(tiny, format, expert, msb, dense, kv, dense_bits):
    """Of a layer by hand: 25,600 dense weights and 192 in vectors, 128 cached elements, experts of 12,288 weights."""
    module = raised(load_model(tiny("qwen3_moe"), format))
    store, part = find(module, ExpertLayer)[0][1], parts_of(read_stages(module, "test")[0])[0]
    assert (store.whole_bytes, store.msb_bytes) == (expert, msb)
    assert part.weight_bytes == 25_600 * dense / 8 + 192 * 2
    assert part.kv_elements == kv
    assert only(module, ModelShape).slices_dense == (dense_bits == 4)


def test_a_format_is_compiled_and_said(tiny):
    found = moe_compiler.compile(tiny("qwen3_moe"), "elmoe3d-4gb", format="bf16", context=16, time_limit=0.1)
    assert (found.cost["format"], found.record["format"]) == ("bf16", "bf16")
    assert found.plan["draft"]["bits"] == found.plan["draft"]["dense_bits"] == 8
    with pytest.raises(InputError, match="no such format"):
        moe_compiler.compile(tiny("qwen3_moe"), "elmoe3d-4gb", format="bf61")
    quantised = tiny("qwen3_moe", quantization_config={"quant_method": "secret"})
    with pytest.raises(InputError, match="'secret' is not known"):
        moe_compiler.compile(quantised, "elmoe3d-4gb")
