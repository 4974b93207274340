"""That the tasks of the round are those that follow from phases, decisions and routing: all, and no others."""

from collections import Counter

from moe_passes.plan.round import DEEP, EXTERNAL, FAR_ENGINE
from moe_passes.verify.expected import Derivation, Expected, Key, Uses, demands, named_banks
from moe_passes.verify.plan import Plan


def violations(plan: Plan) -> list[str]:
    """Return everything that is wrong with resources, tasks, dependencies, durations, demands and what is staged."""
    wrong = _resources(plan)
    if wrong:
        return wrong
    derived = Derivation(plan)
    keys = [(w.kind, w.step, w.layer, w.expert) for w in plan.work]
    wrong = _complete(plan, derived, keys)
    if wrong:
        return wrong
    for number, key in enumerate(keys):
        wrong += _work(plan, number, derived.tasks[key]) + _modes(plan, number, derived.tasks[key])
    wrong += _served(plan) + _replaced(plan)
    return wrong + _dependencies(plan, derived, keys) + _staged(plan, derived, keys)


def _resources(plan: Plan) -> list[str]:
    banks = plan.prices.space().banks
    expected = {EXTERNAL: plan.prices.rates().loads_at_once, "link": 1, "staging": plan.draft.staging_bytes}
    if plan.prices.rates().computes_far:
        expected[FAR_ENGINE] = 1
    if plan.prices.space().deep_bytes:
        expected[DEEP] = 1
    groups = [found for name in plan.names if (found := named_banks(name)) is not None]
    plain = {n: c for n, c in zip(plan.names, plan.capacities, strict=True) if named_banks(n) is None}
    wrong = []
    if plain != expected or len(set(plan.names)) < len(plan.names):
        wrong.append(f"@round has resources {plain}; valid: {expected} and the banks")
    if sorted(bank for group in groups for bank in group) != list(range(banks)):
        wrong.append(f"the groups of banks of @round are not the {banks} banks, each once")
    shared = [c for n, c in zip(plan.names, plan.capacities, strict=True) if named_banks(n) is not None and c != 1]
    if shared:
        wrong.append(f"a group of banks has a capacity of {shared[0]}; valid: 1")
    return wrong


def _complete(plan: Plan, derived: Derivation, keys: list[Key]) -> list[str]:
    counts = Counter(keys)
    wrong = [f"@round lacks {_worded(key)}" for key in derived.tasks if key not in counts]
    wrong += [f"@round holds {_worded(key)}, which nothing asks for" for key in counts if key not in derived.tasks]
    return wrong + [f"@round holds {_worded(key)} {count} times" for key, count in counts.items() if count > 1]


def _worded(key: Key) -> str:
    kind, step, layer, expert = key
    return f"'{kind}' of step {step}, layer {layer}" + (f", expert {expert}" if expert >= 0 else "")


def _work(plan: Plan, number: int, expected: Expected) -> list[str]:
    found = plan.work[number].traffic
    return [] if found == expected.traffic else [f"{plan.title(number)} does {found}; valid: {expected.traffic}"]


def _modes(plan: Plan, number: int, expected: Expected) -> list[str]:
    """Every mode is a legal way, and every legal way that is not worse than another is there."""
    modes = plan.tasks[number].modes
    found = [(mode.duration, demands(plan, mode.uses)) for mode in modes]
    wrong = [
        f"{plan.title(number)} has a mode of {_way(way)}; valid: {'; '.join(_way(w) for w in expected.modes)}"
        for way in found
        if way not in expected.modes
    ]
    best = [w for w in expected.modes if not any(_is_worse(w, other) for other in expected.modes)]
    if not wrong and not set(best) <= set(found):
        missing = next(way for way in best if way not in found)
        wrong.append(f"{plan.title(number)} lacks the mode of {_way(missing)}")
    return wrong


def _way(way: tuple[int, Uses]) -> str:
    named = sorted(name for name, _ in way[1])
    return f"{way[0]} ns on {', '.join(named[:4])}{', …' if len(named) > 4 else ''}"


def _is_worse(way: tuple[int, Uses], other: tuple[int, Uses]) -> bool:
    """Say whether another way is at least as fast and needs less or the same, and is not the same."""
    needs = dict(way[1])
    fits = all(needs.get(name, 0) >= amount for name, amount in other[1])
    return other != way and other[0] <= way[0] and fits


def _served(plan: Plan) -> list[str]:
    """Draft tasks say which replica serves each of their distinct experts."""
    wrong = []
    layers = {layer.shape.layer: layer for layer in plan.layers}
    for number, work in enumerate(plan.work):
        if work.kind != "draft-experts":
            continue
        layer = layers[work.layer]
        drafted = plan.routing[layer.shape.name].drafted[work.step].ravel().tolist()
        experts = sorted(set(drafted) - {-1})
        if [expert for expert, _ in work.served] != experts:
            wrong.append(f"{plan.title(number)} serves {[e for e, _ in work.served]}; valid: {experts}")
        elif any(not 0 <= replica < len(layer.replicas[expert]) for expert, replica in work.served):
            wrong.append(f"{plan.title(number)} uses a replica that does not exist")
    return wrong


def _replaced(plan: Plan) -> list[str]:
    layers = {layer.shape.layer: plan.routing[layer.shape.name] for layer in plan.layers}
    return [
        f"{plan.title(number)} replaces expert {work.replaces}; the routing says {dict(layers[work.layer].promoted)}"
        for number, work in enumerate(plan.work)
        if work.kind == "write" and (work.expert, work.replaces) not in layers[work.layer].promoted
    ]


def _dependencies(plan: Plan, derived: Derivation, keys: list[Key]) -> list[str]:
    """What a task waits for, directly or through others, is what it must wait for, no more and no less."""
    number = {key: n for n, key in enumerate(keys)}
    found, expected = [0] * len(keys), [0] * len(keys)
    for n, task in enumerate(plan.tasks):
        if any(not 0 <= before < n for before in task.after):
            return [f"{plan.title(n)} waits for a task that does not stand before it"]
    wrong = []
    for n, key in enumerate(keys):
        for before in plan.tasks[n].after:
            found[n] |= found[before] | 1 << before
        for other in derived.tasks[key].after:
            if number[other] >= n:
                return [f"{plan.title(n)} stands before {plan.title(number[other])}, which it must wait for"]
            expected[n] |= expected[number[other]] | 1 << number[other]
        if found[n] != expected[n]:
            missing, extra = expected[n] & ~found[n], found[n] & ~expected[n]
            verb, of = ("does not wait for", missing) if missing else ("waits in vain for", extra)
            wrong.append(f"{plan.title(n)} {verb} {plan.title(of.bit_length() - 1)}")
            found[n] = expected[n]
    return wrong


def _staged(plan: Plan, derived: Derivation, keys: list[Key]) -> list[str]:
    """Slots are held from each load to the end of what uses them last."""
    staging = plan.names.index("staging") if "staging" in plan.names else -1
    found = Counter((b.resource, b.amount, keys[b.first], keys[b.last]) for b in plan.buffers)
    expected: Counter[tuple[int, int, Key, Key]] = Counter()
    for held in derived.held:
        expected[staging, derived.slot_bytes, held.load, held.last] += held.slots
    lacking, extra = expected - found, found - expected
    wrong = [f"@round holds {n} slots too few of {_worded(load)}" for (_, _, load, _), n in lacking.items()]
    if not wrong:
        wrong = [f"@round holds {n} slots of {_worded(load)} that it must not" for (_, _, load, _), n in extra.items()]
    return wrong
