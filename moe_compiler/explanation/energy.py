"""Where the energy goes: by part of the machine, phase and layer."""

from moe_compiler.documents.explanation import Explanation
from moe_compiler.documents.folder import CompiledFolder
from moe_compiler.explanation.words import joules, listed

LEAST_SHARE = 0.005
"""Of the parts that are named."""


def explain_energy(of: CompiledFolder) -> Explanation:
    """Say what a held-out round takes, and where."""
    question, cost = "Where does the energy go?", of.cost
    if not cost.joules_by_part or not cost.round.joules:
        said = [f"Energy is not known: the hardware file of {cost.target} states none."]
        return Explanation(question=question, sentences=said, figures={"joules": None})
    by_layer = cost.joules_by_layer or []
    phases: dict[str, float] = {}
    layers: dict[int, float] = {}
    for entry in by_layer:
        phases[entry.phase] = phases.get(entry.phase, 0.0) + entry.joules
        layers[entry.layer] = layers.get(entry.layer, 0.0) + entry.joules
    parts = sorted(cost.joules_by_part.items(), key=lambda pair: -pair[1])
    most = sorted(layers.items(), key=lambda pair: -pair[1])[:3]
    figures = {
        "joules": cost.round.joules,
        "by_part": dict(parts),
        "by_phase": phases,
        "by_layer": [entry.content() for entry in by_layer],
    }
    total = cost.round.joules
    sentences = [
        f"A held-out round takes {joules(total)}, {joules(total / cost.round.tokens)} a token: "
        + listed([f"{name} {value / total:.0%}" for name, value in parts if value / total >= LEAST_SHARE], 8)
        + "."
    ]
    if by_layer:
        sentences.append(
            "By phase, static power left out: "
            f"{listed([f'{name} {joules(value)}' for name, value in phases.items()])}. The layers that take the "
            f"most: {listed([f'{layer_name(of, layer)} ({joules(value)})' for layer, value in most])}; what is not "
            "named takes less."
        )
    return Explanation(question=question, sentences=sentences, figures=figures)


def layer_name(of: CompiledFolder, layer: int) -> str:
    """Name a layer of `joules_by_layer`: what comes after the last is the head."""
    return "the head" if layer == of.plan.decoder_layers else str(layer)
