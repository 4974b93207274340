"""A plan as flags and files of the runtimes that people have; what a runtime cannot do is refused with the reason.

Each states the version and the page that its flags were taken from. What those runtimes have in common: they hold whole
experts, and what is near stays near. So a plan with slices, or whose residents follow the routing, is none of theirs.
"""

import io
import json
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from moe_passes.plan.decisions import ALL, MSB, NONE
from moe_passes.plan.errors import InputError

from moe_compiler.documents.cost import CostDocument
from moe_compiler.documents.folder import CompiledFolder
from moe_compiler.documents.plan import PlanDocument
from moe_compiler.formats.eplb import Decoder, to_eplb, to_expert_location
from moe_compiler.formats.placements import EPLB_KEYS


@dataclass(frozen=True)
class Export:
    """What is written.

    Attributes:
        command: for a shell, comments first; empty where the file is all there is.
        content: of a file; None where there is none.
        suffix: of the file's name, by which the runtime knows how to read it; empty where it does not go by that.
    """

    command: str
    content: bytes | None = None
    suffix: str = ""

    def with_file(self, name: str) -> str:
        """Return the command with the name of its file."""
        return self.command.replace(FILE, shlex.quote(name))


FILE = "@FILE@"
Write = Callable[[CompiledFolder], Export]

LLAMA_CPP = "llama.cpp, tools/server/README.md as of November 2026 (--n-cpu-moe, -ot, --spec-draft-n-max)"
VLLM = "vLLM 0.30, docs.vllm.ai/en/stable/configuration/engine_args (--cpu-offload-params, --speculative-config)"
SGLANG = "SGLang 0.5, docs.sglang.ai/advanced_features/server_arguments.html"
KTRANSFORMERS = "KTransformers 0.5, doc/en/kt-kernel/experts-sched-Tutorial.md"
EPLB = "EPLB (github.com/deepseek-ai/EPLB), what rebalance_experts returns"


def export(of: CompiledFolder, target: str) -> Export:
    """Express a compiled plan for a runtime.

    Raises:
        InputError: it cannot be expressed there; the message says why and what could be.
    """
    try:
        return TARGETS[target](of)
    except InputError as error:
        text = str(error)
        raise InputError(text if text.startswith("--to") else f"--to {target}: {text}") from None


def llama_cpp(of: CompiledFolder) -> Export:
    """Layers whose experts lie in the far memory, by their number; a layer's experts are one tensor there."""
    plan = of.plan
    near = _near(plan, "llama.cpp")
    far, mixed = _far_and_mixed(near)
    if mixed:
        raise _cannot(
            "llama.cpp", f"layer {mixed[0]} has some experts near and some not: a layer's experts are one tensor there",
            "compile with --place layers=N:far, experts=far or all-near",
        )  # fmt: skip
    if far and not plan.dispatch.most_far_tokens:
        raise _cannot(
            "llama.cpp",
            "the plan loads experts, and it computes them where they lie",
            "a target whose far memory computes",
        )
    flags = ["--n-gpu-layers", "999"]
    numbers = sorted(near)
    if far == numbers[: len(far)] and far:
        # It counts layers from the first one, dense ones too.
        flags += ["--n-cpu-moe", str(far[-1] + 1)]
    elif far:
        pattern = "|".join(map(str, far))
        flags += ["-ot", rf"blk\.({pattern})\.ffn_.*_exps\.=CPU"]
    notes = []
    if plan.draft.length:
        flags += ["--spec-draft-n-max", str(plan.draft.length)]
        notes.append(
            "drafts come from a draft model or heads that you bring (--spec-type): it cannot draft with near experts"
        )
    flags += ["--ctx-size", str(max(1, plan.context) * plan.batch), "--parallel", str(plan.batch)]
    return Export(_shell(of.cost, LLAMA_CPP, ["llama-server", "-m", "MODEL.gguf", *flags], notes))


def vllm(of: CompiledFolder) -> Export:
    """Bytes of experts that are read from host memory in every step; it takes them from the first layer on."""
    plan = of.plan
    near = _near(plan, "vLLM")
    far, mixed = _far_and_mixed(near)
    if mixed or far != sorted(near)[: len(far)]:
        where = f"layer {mixed[0]} has some experts near" if mixed else "the layers that are far are not the first ones"
        raise _cannot(
            "vLLM",
            f"{where}: it offloads whole layers from the first on",
            "compile with --place experts=loaded or all-near",
        )
    if far and plan.dispatch.most_far_tokens:
        raise _cannot(
            "vLLM",
            "the plan computes experts in the far memory, and it reads them from there",
            "--place experts=loaded",
        )
    flags = ["--max-num-seqs", str(plan.batch)]
    notes = []
    if far:
        sizes = {
            layer.layer: layer.expert_bytes.all * len(layer.residency) for layer in plan.layers if layer.expert_bytes
        }
        gib = sum(sizes.get(layer, 0) for layer in far) / 2**30
        flags += ["--cpu-offload-gb", f"{gib:.2f}", "--cpu-offload-params", "experts"]
        notes.append("it reads all offloaded weights in every step, chosen or not: expect less than is predicted")
    if plan.draft.length:
        speculation = {"method": "METHOD", "num_speculative_tokens": plan.draft.length}
        flags += ["--speculative-config", json.dumps(speculation)]
        notes.append("METHOD: what drafts, mtp or eagle3 or ngram: it cannot draft with near experts")
    command = ["vllm", "serve", "MODEL", *flags]
    if plan.banks > 1 and not far:
        command += ["--tensor-parallel-size", str(plan.banks), "--enable-expert-parallel"]
        notes.append(
            "banks are its devices; which expert lies where is its own choice: to sglang or eplb, it can be said"
        )
    return Export(_shell(of.cost, VLLM, command, notes))


def sglang(of: CompiledFolder) -> Export:
    """An expert-location file, and flags; every expert in one slot or more of a device."""
    plan = of.plan
    _near(plan, "SGLang")
    if plan.decoder_layers is None:
        raise InputError(f"{of.path}: does not say how many decoder layers the model has; valid: compile again")
    decoder = Decoder(plan.decoder_layers, tuple(layer.layer for layer in plan.layers))
    location = to_expert_location([layer.replicas() for layer in plan.layers], plan.banks, decoder)
    slots = len(location["physical_to_logical_map"][plan.layers[0].layer])
    extra = slots - len(plan.layers[0].residency)
    flags = ["--init-expert-location", FILE, "--ep-size", str(plan.banks), "--tp-size", str(plan.banks)]
    flags += ["--ep-num-redundant-experts", str(extra)] if extra else []
    notes = []
    if plan.draft.length:
        flags += ["--speculative-num-steps", str(plan.draft.length), "--speculative-eagle-topk", "1"]
        flags += ["--speculative-num-draft-tokens", str(plan.draft.length + 1)]
        notes.append(
            "drafts come from a draft model that you bring (--speculative-algorithm): it cannot draft with near experts"
        )
    command = ["python", "-m", "sglang.launch_server", "--model-path", "MODEL", *flags]
    return Export(_shell(of.cost, SGLANG, command, notes), (json.dumps(location) + "\n").encode(), ".json")


def ktransformers(of: CompiledFolder) -> Export:
    """The share of experts near, and an activation statistics file by which its frequency strategy chooses the same."""
    import torch

    plan = of.plan
    near = _near(plan, "KTransformers")
    if not all(map(all, near.values())) and not plan.dispatch.most_far_tokens:
        raise _cannot(
            "KTransformers",
            "the plan loads experts, and it computes them on the CPU",
            "a target whose far memory computes",
        )
    layers = plan.decoder_layers or max(near) + 1
    experts = max(len(kept) for kept in near.values())
    counts = torch.zeros(1, layers, experts, dtype=torch.int64)
    # Above all that is not near, so that the most frequent are those of the plan, layer by layer.
    lift = 1 + max(max(layer.popularity, default=0) for layer in plan.layers)
    for layer in plan.layers:
        kept, chosen = near[layer.layer], layer.popularity or [0] * len(layer.residency)
        row = [count + lift * is_near for count, is_near in zip(chosen, kept, strict=True)]
        counts[0, layer.layer, : len(row)] = torch.tensor(row, dtype=torch.int64)
    buffer = io.BytesIO()
    torch.save({"logical_count": counts}, buffer)
    total, count = sum(map(len, near.values())), sum(sum(kept) for kept in near.values())
    command = ["python", "-m", "sglang.launch_server", "--model", "MODEL", "--kt-weight-path", "WEIGHTS"]
    command += ["--kt-gpu-experts-ratio", share_of(count, total), "--kt-expert-placement-strategy", "frequency"]
    command += ["--init-expert-location", FILE]
    notes = [
        "counts of near experts are raised above all others, so that it keeps just those",
        "WEIGHTS: of the experts that its CPU computes, in the format of --kt-method",
    ]
    if plan.draft.length:
        notes.append("speculation is not part of its flags here: the prediction is of the plan's drafts")
    return Export(_shell(of.cost, KTRANSFORMERS, command, notes), buffer.getvalue(), ".pt")


def share_of(count: int, total: int) -> str:
    """Return `--kt-gpu-experts-ratio`: it keeps `int(total * ratio)` experts, so half of one is added."""
    return "1" if count == total else f"{(count + 0.5) / total:.9f}"


def eplb(of: CompiledFolder) -> Export:
    """The triple of arrays."""
    _near(of.plan, "EPLB")
    triple = to_eplb([layer.replicas() for layer in of.plan.layers], of.plan.banks)
    buffer = io.BytesIO()
    arrays = (triple.physical_to_logical, triple.logical_to_physical, triple.counts)
    predicted = np.array(tokens_per_second(of.cost))
    named: dict[str, Any] = dict(zip(EPLB_KEYS, arrays, strict=True))
    np.savez_compressed(buffer, **named, predicted_tokens_per_second=predicted)
    return Export(_comments(of.cost, EPLB, []), buffer.getvalue())


def neutral(of: CompiledFolder) -> Export:
    """Experts of every layer, those that are worth keeping first; anybody's format."""
    plan = of.plan
    content = {
        "model": plan.model,
        "target": plan.target,
        "format": of.cost.format,
        "batch": plan.batch,
        "draft_length": plan.draft.length,
        "predicted_tokens_per_second": tokens_per_second(of.cost),
        "routing": plan.profile.kind,
        "layers": [
            {
                "layer": layer.layer,
                "ranked": _ranked(layer.levels(), layer.popularity or layer.needed_permille),
                "near_whole": np.flatnonzero(layer.levels() == ALL).tolist(),
                "near_slice": np.flatnonzero(layer.levels() == MSB).tolist(),
            }
            for layer in plan.layers
        ],
    }
    return Export("", (json.dumps(content) + "\n").encode())


def _ranked(levels: np.ndarray, popularity: Sequence[int]) -> list[int]:
    """Rank experts by what is kept of them, then by how often they are chosen."""
    order = np.lexsort((np.arange(len(levels)), -np.array(popularity), -levels))
    return [int(expert) for expert in order]


def _near(plan: PlanDocument, name: str) -> dict[int, list[bool]]:
    """Return, by layer, which experts are near, whole and for good.

    Raises:
        InputError: one is near as a slice, or residents follow the routing.
    """
    for layer in plan.layers:
        if "msb" in layer.residency:
            which = f"expert {layer.residency.index('msb')} of layer {layer.layer}"
            valid = "compile with a --format without slices (gguf:q4_k_m, …), or with --place near-share=SHARE"
            raise _cannot(name, f"{which} is near as a slice, and it holds whole ones", valid)
    if plan.hot_set.window_tokens and any("none" in layer.residency for layer in plan.layers):
        raise _cannot(
            name,
            "what is near follows the routing, and there it stays as it is",
            "compile with --place near-share=SHARE",
        )
    return {layer.layer: [level > NONE for level in layer.levels().tolist()] for layer in plan.layers}


def _far_and_mixed(near: dict[int, list[bool]]) -> tuple[list[int], list[int]]:
    """Return the layers of which no expert is near, and those of which some are."""
    far = [layer for layer, kept in near.items() if not any(kept)]
    return far, [layer for layer, kept in near.items() if any(kept) and not all(kept)]


def _cannot(name: str, why: str, valid: str) -> InputError:
    return InputError(f"--to: the plan cannot be expressed in {name}: {why}; valid: {valid}")


def tokens_per_second(cost: CostDocument) -> float:
    """Return what is predicted, of all sequences together."""
    return 1 / cost.token.seconds


def _comments(cost: CostDocument, source: str, notes: list[str]) -> str:
    low, high = cost.token.ci95_seconds
    lines = [
        f"predicted: {tokens_per_second(cost):.4g} tokens/s of all {cost.batch} sequences on {cost.target} (95 %: "
        f"{1 / high:.4g} to {1 / low:.4g}), routing {cost.profile.kind}",
        f"flags: {source}",
        *notes,
    ]
    return "".join(f"# {line}\n" for line in lines)


def _shell(cost: CostDocument, source: str, command: list[str], notes: list[str]) -> str:
    words = [word if word == FILE else shlex.quote(word) for word in command]
    return _comments(cost, source, notes) + " ".join(words) + "\n"


TARGETS: dict[str, Write] = {
    "llama.cpp": llama_cpp,
    "vllm": vllm,
    "sglang": sglang,
    "ktransformers": ktransformers,
    "eplb": eplb,
    "neutral": neutral,
}
"""The runtimes, by name."""
