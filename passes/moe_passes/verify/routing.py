"""That the routing of the round is one that the model and the draft can make."""

import numpy as np

from moe_passes.plan.placed import PlacedLayer
from moe_passes.plan.round import LayerRouting
from moe_passes.verify.plan import Plan


def violations(plan: Plan) -> list[str]:
    """Return everything that is wrong with the routing."""
    wrong = []
    for layer in plan.layers:
        name = layer.shape.name
        if name not in plan.routing:
            wrong.append(f"@round has no routing of @{name}")
            continue
        found = _shapes(plan, layer, plan.routing[name]) or _choices(plan, layer, plan.routing[name])
        wrong += [f"routing of @{name}: {text}" for text in found]
    return wrong


def _shapes(plan: Plan, layer: PlacedLayer, routing: LayerRouting) -> list[str]:
    batch, length, k = plan.request.batch, plan.draft.length, layer.shape.top_k
    expected = {"verify": (batch * (length + 1), k), "asked": (length, batch, k), "drafted": (length, batch, k)}
    return [
        f"'{name}' has shape {getattr(routing, name).shape}; valid: {shape}"
        for name, shape in expected.items()
        if getattr(routing, name).shape != shape
    ]


def _choices(plan: Plan, layer: PlacedLayer, routing: LayerRouting) -> list[str]:
    wrong, k = [], layer.shape.top_k
    residents = {int(e) for e in np.flatnonzero(layer.residency)}
    for name in ("verify", "asked"):
        if any(len(set(row)) < k or min(row) < 0 for row in getattr(routing, name).reshape(-1, k).tolist()):
            wrong.append(f"'{name}' holds a token with other than {k} distinct experts")
    for asked, drafted in zip(
        routing.asked.reshape(-1, k).tolist(), routing.drafted.reshape(-1, k).tolist(), strict=True
    ):
        chosen = [expert for expert in drafted if expert >= 0]
        if len(set(chosen)) < len(chosen) or len(chosen) != min(k, len(residents)):
            wrong.append(f"a draft token computes experts {chosen}; valid: {min(k, len(residents))} distinct ones")
        elif not set(chosen) <= residents or not residents.intersection(asked) <= set(chosen):
            wrong.append(f"a draft token that asked for {asked} computes {chosen}; valid: residents, asked ones first")
    return wrong + _promoted(residents, routing)


def _promoted(residents: set[int], routing: LayerRouting) -> list[str]:
    needed = set(routing.verify.ravel().tolist())
    incoming = [new for new, _ in routing.promoted]
    leaving = [old for _, old in routing.promoted]
    wrong = []
    if len(set(incoming)) < len(incoming) or not set(incoming) <= needed - residents:
        wrong.append(f"experts {incoming} are promoted; valid: what verify loads and is not resident, each once")
    if len(set(leaving)) < len(leaving) or not set(leaving) <= residents:
        wrong.append(f"experts {leaving} give way; valid: residents, each once")
    return wrong
