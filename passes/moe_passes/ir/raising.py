"""Raising a traced step to the moe dialect.

A decoder is a residual stream to which blocks add. So the graph is cut at the residual additions (an addition of two
values of the stream's shape) and between layers, and each segment is named by what is in it: a `torch.moe.attention`
makes it an attention block, a `torch.moe.mixer` another token mixer, a `torch.moe.experts` a MoE block; weights without
any make it a dense feed-forward block, and the last one with weights is the head. Within a MoE block, weights on the
way to the routing operands (or to the experts' input: the norm) are the router's, the others are shared experts'. Where
a layer does not add in between, what lies in the module of the attention's weights is the attention's. Layers of which
another was traced in their place are put back. Every operation keeps the line of the model behind it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

from torch_mlir import ir
from torch_mlir.dialects import func

from moe_passes.ir.dialects import model as moe
from moe_passes.ir.module import line_of
from moe_passes.ir.records import symbol_ref, to_attribute
from moe_passes.plan.errors import InputError
from moe_passes.plan.model import ExpertLayer, ModelShape
from moe_passes.plan.phase import WHOLE_SLICE

NAME = "raise-moe"
VECTOR_BITS = FP16_BITS = 16
"""Norms, biases and the like stay FP16."""
DYNAMIC_WIDTH = -1
ATTENTION, MIXER, EXPERTS = ANCHORS = ("torch.moe.attention", "torch.moe.mixer", "torch.moe.experts")
LARGEST_REST = 0.01
"""Share of a model's parameters that may be in no part of it."""
STATE_BYTES = 4
"""Of an element that a recurrent token mixer keeps: FP32, as published models keep them."""


@dataclass
class Segment:
    """What stands between two residual additions, of one decoder layer.

    Attributes:
        layer: the decoder layer; −1 outside of all.
        weights: shape of every weight used, in order of use, by argument number.
        modules: name of the layer's module that holds each weight, by argument number.
        attention: the attention operator, if any.
        mixers: recurrent and convolutional token mixers.
        experts: the experts operator, if any.
        experts_from: argument numbers of weights on the way to the routing or to the experts' input.
        mixed_from: argument numbers of weights on the way to the attention.
        mixed_by: argument numbers of the mixers' own weights.
        lines: of the model, where each weight is used, by argument number.
    """

    layer: int = -1
    weights: dict[int, tuple[int, ...]] = field(default_factory=dict)
    modules: dict[int, str] = field(default_factory=dict)
    attention: ir.OpView | None = None
    mixers: list[ir.OpView] = field(default_factory=list)
    experts: ir.OpView | None = None
    experts_from: set[int] = field(default_factory=set)
    mixed_from: set[int] = field(default_factory=set)
    mixed_by: set[int] = field(default_factory=set)
    lines: dict[int, str] = field(default_factory=dict)

    @property
    def mixing_weights(self) -> set[int]:
        """Argument numbers of the attention's (or mixers') weights: all, or beside experts those of its module."""
        if self.experts is None:
            return set(self.weights)
        if self.attention is None and not self.mixers:
            return set()
        own = self.mixed_from & set(self.weights)
        of_module = {self.modules[n] for n in own if len(self.weights[n]) > 1}
        return {n for n in self.weights if self.modules[n] in of_module or n in own}

    @property
    def routing_weights(self) -> set[int]:
        """Argument numbers of the router's weights."""
        return (self.experts_from & set(self.weights)) - self.mixing_weights

    @property
    def shared_weights(self) -> set[int]:
        """Argument numbers of what every token runs through beside the routed experts."""
        return set(self.weights) - self.mixing_weights - self.routing_weights

    def at(self, layer: int) -> "Segment":
        """Return a copy that is of another layer."""
        return replace(
            self, layer=layer, weights=dict(self.weights), modules=dict(self.modules), lines=dict(self.lines)
        )

    def take(self, other: "Segment") -> None:
        """Let this segment have the weights of another."""
        for mine, others in zip(self._of_weights(), other._of_weights(), strict=True):
            mine.update(others)

    def give_mixers(self, into: "Segment") -> None:
        """Let another segment of the layer have this one's token mixers and their weights."""
        for number in self.mixed_by:
            for mine, others in zip(self._of_weights(), into._of_weights(), strict=True):
                if number in mine:
                    others[number] = mine.pop(number)
            into.mixed_from = into.mixed_from | {number}
        into.mixers, self.mixers, self.mixed_from = into.mixers + self.mixers, [], set()

    def _of_weights(self) -> tuple[dict[int, Any], ...]:
        return self.weights, self.modules, self.lines

    def line(self, numbers: set[int] | None = None) -> str:
        """Return the line that uses the largest of these (or all) weights."""
        chosen = [n for n in self.weights if numbers is None or n in numbers]
        return self.lines[max(chosen, key=lambda n: prod(self.weights[n]))] if chosen else ""

    def matrices(self, numbers: set[int] | None = None) -> list[tuple[int, ...]]:
        """Return the shapes of the matrices (and stacks of them) among these (or all) weights."""
        return [s for n, s in self.weights.items() if len(s) > 1 and (numbers is None or n in numbers)]

    def size_bytes(self, matrix_bits: float, numbers: set[int] | None = None) -> int:
        """Return quantised bytes of these (or all) weights."""
        bits = 0.0
        for number, shape in self.weights.items():
            if numbers is None or number in numbers:
                bits += prod(shape) * (matrix_bits if len(shape) > 1 else VECTOR_BITS)
        return round(bits / 8)

    def macs(self, numbers: set[int] | None = None) -> int:
        """Return multiply-accumulates per token on these (or all) weights."""
        return sum(prod(shape) for shape in self.matrices(numbers))


def segment(traced: ir.OpView, hidden: int) -> list[Segment]:
    """Cut a traced step at its residual additions, and between layers.

    Raises:
        InputError: it holds no routed experts.
    """
    arguments = traced.regions[0].blocks[0].arguments
    weights = _weight_arguments(traced)
    carried: dict[ir.Value, set[int]] = {arguments[n]: {n} for n in weights}
    flow = _Flow({a: 0 for a in arguments if a.arg_number not in weights})
    cut = _Cut({n: (_shape(arguments[n]), *names) for n, names in weights.items()})
    for op in traced.regions[0].blocks[0]:
        operands, results = list(op.operation.operands), op.operation.results
        if op.operation.name == "func.return":
            break
        used = set().union(*(carried.get(v, set()) for v in operands))
        if not any(v in flow.depth for v in operands):
            # Weights that are cast, transposed or put in a list: they count where they meet an activation.
            carried.update((result, used) for result in results)
            continue
        level = flow.level(operands)
        cut.add(op, level, set() if _takes_no_part(op) else used, flow.sources)
        used = flow.reached(operands, level, used)
        if _is_residual_add(op, hidden):
            level, used = level + 1, set()
        flow.note(results, level, used)
    if not any(s.experts is not None for s in cut.segments.values()):
        raise InputError(f"{NAME}: @{traced.attributes['sym_name'].value} has no routed experts: this is a dense model")
    return list(cut.segments.values())


@dataclass
class _Flow:
    """How deep in the residual stream each activation stands, and which weights it comes from since the last cut."""

    depth: dict[ir.Value, int]
    sources: dict[ir.Value, set[int]] = field(default_factory=dict)

    def level(self, operands: list[ir.Value]) -> int:
        return max((self.depth.get(v, 0) for v in operands), default=0)

    def reached(self, operands: list[ir.Value], level: int, used: set[int]) -> set[int]:
        return used.union(*(self.sources.get(v, set()) for v in operands if self.depth.get(v) == level))

    def note(self, results: list[ir.Value], level: int, used: set[int]) -> None:
        for result in results:
            self.depth[result], self.sources[result] = level, used


@dataclass
class _Cut:
    """Collects segments, by layer and depth, in the order in which they begin."""

    weights: dict[int, tuple[tuple[int, ...], int, str]]
    segments: dict[tuple[int, int, bool], Segment] = field(default_factory=dict)
    layer: int = -1
    has_begun: bool = False

    def add(self, op: ir.OpView, level: int, used: set[int], sources: dict[ir.Value, set[int]]) -> None:
        """Add an operation that takes part in the step."""
        is_anchor = op.operation.name == "torch.operator" and op.attributes["name"].value in ANCHORS
        if not used and not is_anchor:
            return
        stated = [self.weights[n][1] for n in used]
        self.layer = max(stated, default=self.layer)
        self.has_begun = self.has_begun or self.layer >= 0
        current = self.segments.setdefault((self.layer, level, self.has_begun), Segment(self.layer))
        for number in sorted(used) if not _is_operator(op, EXPERTS) else ():
            shape, _, module = self.weights[number]
            current.weights.setdefault(number, shape)
            current.modules.setdefault(number, module)
            current.lines.setdefault(number, line_of(op))
        if is_anchor:
            _note_anchor(op, current, used, sources)


def _note_anchor(op: ir.OpView, current: Segment, used: set[int], sources: dict[ir.Value, set[int]]) -> None:
    operands = list(op.operation.operands)
    if _is_operator(op, EXPERTS):
        current.experts = op
        current.experts_from = set().union(*(sources.get(v, set()) for v in operands[:3]))
        return
    if _is_operator(op, ATTENTION):
        current.attention = op
    else:
        current.mixers.append(op)
        current.mixed_by |= used
    current.mixed_from = current.mixed_from.union(used, *(sources.get(v, set()) for v in operands))


def _takes_no_part(op: ir.OpView) -> bool:
    """Say whether weights that an operation takes are not read by the step: a table is, of which it reads a row."""
    return bool(op.operation.name == "torch.aten.embedding")


def _is_operator(op: ir.OpView, name: str) -> bool:
    return bool(op.operation.name == "torch.operator" and op.attributes["name"].value == name)


def _weight_arguments(traced: ir.OpView) -> dict[int, tuple[int, str]]:
    """Return the arguments that are weights: the layer of each (−1 where none is stated) and the module in it."""
    if "arg_attrs" not in traced.attributes:
        return {}
    entries = enumerate(traced.attributes["arg_attrs"])
    return {n: _layer_and_module(entry) for n, entry in entries if "moe.parameter" in entry}


def _layer_and_module(entry: ir.DictAttr) -> tuple[int, str]:
    name = entry["moe.parameter"].value
    if "moe.layer" not in entry:
        return -1, name
    layer = entry["moe.layer"].value
    return layer, name.partition(f".{layer}.")[2].partition(".")[0]


def _shape(value: ir.Value) -> tuple[int, ...]:
    """Read the shape off a `!torch.vtensor<[2,?],bf16>`; −1 where it is dynamic."""
    text = str(value.type)
    inside = text[text.index("[") + 1 : text.index("]")]
    return tuple(DYNAMIC_WIDTH if s == "?" else int(s) for s in inside.split(",") if s)


def _is_residual_add(op: ir.OpView, hidden: int) -> bool:
    if op.operation.name != "torch.aten.add.Tensor":
        return False
    left, right = (str(op.operation.operands[i].type) for i in (0, 1))
    return left == right and left.count(",") == 3 and f",{hidden}]" in left


def unfold(segments: list[Segment], model: ModelShape, like: tuple[int, ...]) -> list[Segment]:
    """Put the segments of every layer in the place of those that were traced for it.

    A traced layer that holds several attentions, each with a cache of its own, becomes as many layers of the model.

    Raises:
        InputError: more layers are said to be like others than the model has.
    """
    if len(like) > model.layers:
        raise InputError(f"{NAME}: moe.traced_layers is of {len(like)} layers; the model has {model.layers}")
    numbered = fold_mixers(_numbered(segments))
    first = next((n for n, s in enumerate(numbered) if s.layer >= 0), len(numbered))
    groups: dict[int, list[Segment]] = {}
    for part in numbered:
        groups.setdefault(part.layer, []).append(part)
    several = max(1, model.layers // len(like)) if like else 1
    found = numbered[:first]
    for number, of in enumerate(like or sorted(set(groups) - {-1})):
        seen = 0
        for part in groups.get(of, []):
            seen += part.attention is not None
            found.append(part.at(number * several + min(max(seen - 1, 0), several - 1)))
    return settle(found + [s for s in numbered[first:] if s.layer < 0])


def settle(segments: list[Segment]) -> list[Segment]:
    """Let what stands before the first layer, or behind a layer's experts, be work of the layer that comes next.

    A layer's dense work is one task, before its routed experts; what is behind them runs with the next layer's.
    """
    found: list[Segment] = []
    waiting: list[Segment] = []
    routed: set[int] = set()
    for number, part in enumerate(segments):
        is_plain = part.attention is None and part.experts is None and not part.mixers
        is_late = part.layer < 0 or part.layer in routed
        if is_plain and is_late and number + 1 < len(segments):
            waiting.append(part)
            continue
        for early in waiting:
            part.take(early)
        waiting = []
        if part.experts is not None:
            routed.add(part.layer)
        found.append(part)
    return found


def fold_mixers(segments: list[Segment]) -> list[Segment]:
    """Of the token mixers of a layer, all work counts where the layer mixes tokens first.

    Some layers (Inkling's) have small convolutions behind other blocks as well; what a layer's dense work before its
    routed experts takes with it is one task.
    """
    first: dict[int, Segment] = {}
    for part in segments:
        if part.attention is not None or part.mixers:
            into = first.setdefault(part.layer, part)
            if into is not part and part.attention is None:
                part.give_mixers(into)
    return [s for s in segments if s.weights or s.attention is not None or s.mixers or s.experts is not None]


def _numbered(segments: list[Segment]) -> list[Segment]:
    """Where no weight says its layer, segments are of the layer of the attention before them."""
    if any(s.layer >= 0 for s in segments):
        return segments
    layer, found = -1, []
    head = head_of(segments)
    for part in segments:
        if part.attention is not None:
            layer = _constant(part.attention.operation.operands[4])
        found.append(part if part is head else replace(part, layer=layer))
    return found


def head_of(segments: list[Segment]) -> Segment | None:
    """Return the last segment with matrices, if it neither mixes tokens nor routes."""
    last = next((s for s in reversed(segments) if s.matrices()), None)
    return last if last and last.attention is None and last.experts is None and not last.mixers else None


def check_complete(traced: ir.OpView, segments: list[Segment], model: ModelShape, like: tuple[int, ...]) -> None:
    """Refuse a model of which a part would be in no segment.

    Raises:
        InputError: parameters of more than 1 % of the model are neither routed, dense nor an embedding.
    """
    arguments = traced.regions[0].blocks[0].arguments
    weights = _weight_arguments(traced)
    used = {n for s in segments for n in s.weights} | _read_by(traced, weights)
    left: dict[str, int] = {}
    for number, (layer, _) in weights.items():
        if number not in used:
            times = like.count(layer) if layer >= 0 and like else 1
            name = traced.attributes["arg_attrs"][number]["moe.parameter"].value
            left[name] = times * prod(_shape(arguments[number]))
    if sum(left.values()) > LARGEST_REST * model.total_parameters:
        largest = sorted(left, key=lambda name: -left[name])
        raise InputError(
            f"{NAME}: {sum(left.values()) / model.total_parameters:.1%} of the parameters are in no part of "
            f"@{traced.attributes['sym_name'].value}: {', '.join(largest[:5])}{', …' if len(largest) > 5 else ''}"
        )


def _read_by(traced: ir.OpView, weights: dict[int, tuple[int, str]]) -> set[int]:
    """Return the weights that look-ups and experts read."""
    arguments = traced.regions[0].blocks[0].arguments
    carried: dict[ir.Value, set[int]] = {arguments[n]: {n} for n in weights}
    found: set[int] = set()
    for op in traced.regions[0].blocks[0]:
        used = set().union(*(carried.get(v, set()) for v in op.operation.operands))
        if _takes_no_part(op) or _is_operator(op, EXPERTS):
            found |= used
        elif used:
            carried.update((result, used) for result in op.operation.results)
    return found


def expert_layers(segments: list[Segment], model: ModelShape) -> Iterator[ExpertLayer]:
    """Read the routed experts of every MoE layer off the operands of its experts operator."""
    for part in segments:
        if part.experts is None:
            continue
        operands = part.experts.operation.operands
        shapes = [_shape(v) for v in operands[3].owner.operands]
        parameters = sum(prod(shape[1:]) for shape in shapes)
        msb_bytes = round(parameters * model.msb_bits / 8)
        yield ExpertLayer(
            name=store_name(part.layer),
            layer=part.layer,
            experts=shapes[0][0],
            top_k=_shape(operands[1])[-1],
            parameters=parameters,
            msb_bytes=msb_bytes,
            residual_bytes=round(parameters * model.expert_bits / 8) - msb_bytes,
        )


def _constant(value: ir.Value) -> int:
    return int(value.owner.attributes["value"].value)


@dataclass
class Raiser:
    """Builds one phase in the moe dialect and puts it in the traced function's place."""

    module: ir.Module
    model: ModelShape
    batch: int
    width: int

    def rewrite(self, traced: ir.OpView, segments: list[Segment]) -> None:
        """Replace the traced function.

        Raises:
            InputError: it has no head.
        """
        name = traced.attributes["sym_name"].value
        with self.module.context, traced.location:
            tokens = moe.Tokens.get(*self._i64(self.batch, self.width))
            logits = moe.Logits.get(*self._i64(self.model.vocabulary))
            with ir.InsertionPoint(traced.operation):
                raised = func.FuncOp(name, ir.FunctionType.get([tokens], [logits]))
            with ir.InsertionPoint(raised.add_entry_block()):
                func.ReturnOp([self._body(raised.arguments[0], segments)])
            traced.operation.erase()

    @staticmethod
    def _i64(*values: int) -> list[ir.Attribute]:
        return [to_attribute(v) for v in values]

    def _body(self, tokens: ir.Value, segments: list[Segment]) -> ir.Value:
        self.hidden = moe.Hidden.get(*self._i64(self.batch, self.width, self.model.hidden))
        row_bytes = to_attribute(2 * self.model.hidden)
        stream = moe.EmbedOp(tokens, row_bytes=row_bytes, result=self.hidden).result
        head = head_of(segments)
        for part in segments:
            if part is head:
                return self._head(stream, part)
            if part.attention is not None:
                stream = self._attention(stream, part)
            elif part.mixers:
                stream = self._mixer(stream, part)
            if part.experts is not None:
                stream = self._experts(stream, part)
            elif part.attention is None and not part.mixers and part.matrices() and part.layer >= 0:
                stream = self._add(stream, self._mlp(stream, part, None), part.line())
        raise InputError(f"{NAME}: the traced graph has no head")

    def _attention(self, stream: ir.Value, part: Segment) -> ir.Value:
        assert part.attention is not None
        query, key, value, _, _, window, latent, *index = part.attention.operation.operands
        _, heads, _, key_dim = _shape(query)
        value_dim = _shape(value)[3]
        cached = _constant(latent)
        kv_elements = cached or _shape(key)[1] * key_dim + _shape(value)[1] * value_dim
        attributes = {
            "layer": part.layer,
            "weight_bytes": part.size_bytes(self.model.dense_bits, part.mixing_weights),
            "macs_per_token": part.macs(part.mixing_weights),
            "gathered_elements": heads * value_dim + self.model.hidden,
            "kv_elements": round(
                (kv_elements + (_constant(index[0]) if index else 0)) * self.model.kv_bits / FP16_BITS
            ),
            "window": _constant(window),
            # With a cached latent, queries are absorbed: scores and values both run over the latent.
            "attention_macs": heads * (2 * cached if cached else key_dim + value_dim),
            "kv_heads": 1 if cached else _shape(key)[1],
            # Besides its output, a part of a cache gives each head's maximum and sum.
            "merged_elements": heads * ((cached or value_dim) + 2),
            "state_bytes": _state_bytes(part),
        }
        line = _at(line_of(part.attention))
        return moe.AttentionOp(stream, **self._attributes(attributes), result=self.hidden, loc=line).result

    def _mixer(self, stream: ir.Value, part: Segment) -> ir.Value:
        attributes = {
            "layer": part.layer,
            "weight_bytes": part.size_bytes(self.model.dense_bits, part.mixing_weights),
            "macs_per_token": part.macs(part.mixing_weights),
            "gathered_elements": self.model.hidden,
            "state_bytes": _state_bytes(part),
        }
        line = _at(line_of(part.mixers[0]))
        return moe.MixerOp(stream, **self._attributes(attributes), result=self.hidden, loc=line).result

    def _experts(self, stream: ir.Value, part: Segment) -> ir.Value:
        assert part.experts is not None
        operands = part.experts.operation.operands
        count, top_k = _shape(operands[3].owner.operands[0])[0], _shape(operands[1])[-1]
        of_router = {
            "layer": part.layer,
            "weight_bytes": part.size_bytes(self.model.dense_bits, part.routing_weights),
            "macs_per_token": part.macs(part.routing_weights),
        }
        routing = moe.RouterOp(
            stream,
            **self._attributes(of_router),
            result=moe.Routing.get(*self._i64(count, top_k)),
            loc=_at(part.line(part.routing_weights)),
        ).result
        line = line_of(part.experts)
        routed = moe.ExpertsOp(
            stream,
            routing,
            store=symbol_ref(store_name(part.layer)),
            slice=to_attribute(WHOLE_SLICE),
            result=self.hidden,
            loc=_at(line),
        ).result
        shared = part.shared_weights
        total = self._add(stream, routed, line)
        if part.matrices(shared):
            total = self._add(total, self._mlp(stream, part, shared), part.line(shared))
        return total

    def _mlp(self, stream: ir.Value, part: Segment, shared: set[int] | None) -> ir.Value:
        matrices = part.matrices(shared)
        width = max((s[-1] for s in matrices if s[-2] == self.model.hidden), default=self.model.hidden)
        attributes = {
            "layer": part.layer,
            "weight_bytes": part.size_bytes(self.model.dense_bits, shared),
            "macs_per_token": part.macs(shared),
            "gathered_elements": width + self.model.hidden,
            "shared": int(shared is not None),
        }
        line = _at(part.line(shared))
        return moe.MlpOp(stream, **self._attributes(attributes), result=self.hidden, loc=line).result

    def _add(self, stream: ir.Value, added: ir.Value, line: str) -> ir.Value:
        return moe.AddOp(stream, added, result=self.hidden, loc=_at(line)).result

    def _head(self, stream: ir.Value, part: Segment) -> ir.Value:
        attributes = {"weight_bytes": part.size_bytes(self.model.dense_bits), "macs_per_token": part.macs()}
        logits = moe.Logits.get(*self._i64(self.model.vocabulary))
        return moe.HeadOp(stream, **self._attributes(attributes), result=logits, loc=_at(part.line())).result

    @staticmethod
    def _attributes(values: dict[str, int]) -> dict[str, ir.Attribute]:
        return {name: to_attribute(value) for name, value in values.items()}


def _state_bytes(part: Segment) -> int:
    return STATE_BYTES * sum(_constant(op.operation.operands[3]) for op in part.mixers)


def store_name(layer: int) -> str:
    """Return the symbol of a layer's expert store."""
    return f"layer{layer}"


def _at(line: str) -> ir.Location:
    """Return the location of a line (`line_of`)."""
    file, _, number = line.rpartition(":")
    if not file:
        return ir.Location.unknown()
    return ir.Location.file(file, int(number), 0)
