"""From the dataflow of a phase to its stages: what runs as one task, and what each waits for.

Operations count where the result depends on them, or where they leave something behind: an attention writes the KV
cache. Dense operations of one layer run as one stage as long as nothing but each other's results lies between them;
the routed experts of a layer are a stage of their own. Additions and restrictions cost nothing, they pass on whom
their users wait for. What a stage waits for through another is left out.
"""

from dataclasses import dataclass, replace

import networkx as nx

from moe_passes.plan.errors import InputError
from moe_passes.plan.model import DensePart
from moe_passes.plan.phase import DENSE, MSB_SLICE, WRITES, Operation, Phase


@dataclass(frozen=True)
class Stage:
    """What runs as one task, or as the experts of a layer.

    Attributes:
        kind: `attention` (all dense work of a layer), `experts` or `head`.
        after: numbers of the stages that it waits for, all smaller than its own.
        part: dense work; of `experts` None.
        store: of `experts`, the expert store.
        router: of `experts`, the stage whose router chooses them.
        where: the line of the model behind it.
    """

    kind: str
    after: tuple[int, ...]
    part: DensePart | None = None
    store: str = ""
    router: int = -1
    where: str = ""


def stages(phase: Phase) -> tuple[Stage, ...]:
    """Return the stages of a phase in program order.

    Raises:
        InputError: two attentions, routers or heads of a layer, two uses of a store, an attention, router or head that
            comes after what its layer's experts need, or (of a draft) experts that are not restricted to residents.
    """
    build = _Stages(phase)
    for number in sorted(_live(phase)):
        build.add(number)
    return build.reduced()


def parts(of: tuple[Stage, ...]) -> list[DensePart]:
    """Return the dense work of all stages."""
    return [stage.part for stage in of if stage.part is not None]


def _live(phase: Phase) -> set[int]:
    graph = nx.DiGraph()
    graph.add_nodes_from(range(len(phase.operations)))
    graph.add_edges_from((source, n) for n, op in enumerate(phase.operations) for source in op.operands)
    roots = {phase.result} | {n for n, op in enumerate(phase.operations) if op.kind in WRITES}
    return roots.union(*(nx.ancestors(graph, root) for root in roots))


class _Stages:
    """Collects stages in program order."""

    def __init__(self, phase: Phase) -> None:
        self.phase = phase
        self.stages: list[Stage] = []
        self.waits: list[set[int]] = [set() for _ in phase.operations]
        self.dense: dict[tuple[str, int], int] = {}
        self.seen: dict[tuple[str, int | str], Operation] = {}

    def add(self, number: int) -> None:
        op = self.phase.operations[number]
        waits = set().union(*(self.waits[source] for source in op.operands))
        if op.kind in DENSE:
            waits = {self._dense(op, waits)}
        elif op.kind == "experts":
            waits = {self._experts(op, waits)}
        self.waits[number] = waits

    def _dense(self, op: Operation, waits: set[int]) -> int:
        assert op.part is not None
        if op.kind != "mlp":
            self._only_once(op, op.kind, op.part.layer)
        kind = "head" if op.kind == "head" else "attention"
        current = self.dense.get((kind, op.part.layer), -1)
        if current >= 0:
            stage = self.stages[current]
            if not waits <= {current, *stage.after}:
                raise InputError(
                    f"@{self.phase.name}{_at(op)}: this {op.kind} of layer {op.part.layer} waits for what comes after "
                    "the layer's other dense work; valid: the dense work of a layer before its routed experts"
                )
            assert stage.part is not None
            self.stages[current] = replace(stage, part=stage.part + op.part)
            return current
        self.stages.append(Stage(kind, tuple(sorted(waits)), op.part, where=op.where))
        self.dense[kind, op.part.layer] = len(self.stages) - 1
        return len(self.stages) - 1

    def _experts(self, op: Operation, waits: set[int]) -> int:
        self._only_once(op, "experts", op.store)
        router, restricted = self._router(op)
        if op.slice == MSB_SLICE and not restricted:
            raise InputError(
                f"@{self.phase.name}{_at(op)}: experts of @{op.store} compute on resident slices, but their routing is "
                "not restricted to residents; valid: a routing from moe.restrict"
            )
        self.stages.append(Stage("experts", tuple(sorted(waits)), store=op.store, router=router, where=op.where))
        return len(self.stages) - 1

    def _router(self, op: Operation) -> tuple[int, bool]:
        """Return the stage of the router that an `experts` operation listens to, and whether it is restricted."""
        source, restricted = self.phase.operations[op.operands[1]], False
        number = op.operands[1]
        while source.kind == "restrict":
            if source.store != op.store:
                raise InputError(
                    f"@{self.phase.name}{_at(op)}: the routing of @{op.store} is restricted to residents of "
                    f"@{source.store}; valid: of one store"
                )
            number, restricted = source.operands[0], True
            source = self.phase.operations[number]
        (stage,) = self.waits[number]
        return stage, restricted

    def _only_once(self, op: Operation, kind: str, of: int | str) -> None:
        if (kind, of) in self.seen:
            first = self.seen[kind, of].where
            where = f"layer {of}" if isinstance(of, int) else f"store @{of}"
            known = f" (the first: {first})" if first else ""
            raise InputError(f"@{self.phase.name}{_at(op)}: a second '{kind}' of {where}{known}; valid: one")
        self.seen[kind, of] = op

    def reduced(self) -> tuple[Stage, ...]:
        """Leave out what a stage waits for through another."""
        graph = nx.DiGraph()
        graph.add_nodes_from(range(len(self.stages)))
        graph.add_edges_from((before, n) for n, stage in enumerate(self.stages) for before in stage.after)
        direct = nx.transitive_reduction(graph)
        return tuple(replace(s, after=tuple(sorted(direct.predecessors(n)))) for n, s in enumerate(self.stages))


def _at(op: Operation) -> str:
    return f" at {op.where}" if op.where else ""
