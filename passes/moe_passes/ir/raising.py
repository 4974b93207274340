"""Raising a traced step to the moe dialect.

A pre-norm decoder is a residual stream to which blocks add. So the graph is cut at the residual additions (an addition
of two values of the stream's shape), and each segment between two cuts is named by what is in it: a
`torch.moe.attention` makes it an attention block, a `torch.moe.experts` makes it a MoE block, weights without either
make it a dense feed-forward block, and the last one with weights is the head. Within a MoE block, weights
on the way to the routing operands (or to the experts' input: the norm) are the router's, the others are
shared experts'. No parameter is recognised by its name. Every operation keeps the line of the model behind it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod

from torch_mlir import ir
from torch_mlir.dialects import func

from moe_passes.ir.dialects import model as moe
from moe_passes.ir.module import line_of
from moe_passes.ir.records import symbol_ref, to_attribute
from moe_passes.plan.errors import InputError
from moe_passes.plan.model import DENSE_BITS, ExpertLayer, ModelShape
from moe_passes.plan.phase import WHOLE_SLICE

NAME = "raise-moe"
VECTOR_BITS = 16
"""Norms, biases and the like stay FP16."""
DYNAMIC_WIDTH = -1


@dataclass
class Segment:
    """What stands between two residual additions.

    Attributes:
        weights: shape of every weight used, in order of use, by argument number.
        attention: the attention operator, if any.
        experts: the experts operator, if any.
        routing_weights: argument numbers of weights on the way to the routing or to the experts' input.
        lines: of the model, where each weight is used, by argument number.
    """

    weights: dict[int, tuple[int, ...]] = field(default_factory=dict)
    attention: ir.OpView | None = None
    experts: ir.OpView | None = None
    routing_weights: set[int] = field(default_factory=set)
    lines: dict[int, str] = field(default_factory=dict)

    def line(self, numbers: set[int] | None = None) -> str:
        """Return the line that uses the largest of these (or all) weights."""
        chosen = [n for n in self.weights if numbers is None or n in numbers]
        return self.lines[max(chosen, key=lambda n: prod(self.weights[n]))] if chosen else ""

    def matrices(self, numbers: set[int] | None = None) -> list[tuple[int, ...]]:
        """Return the shapes of the matrices among these (or all) weights."""
        return [s for n, s in self.weights.items() if len(s) == 2 and (numbers is None or n in numbers)]

    def size_bytes(self, numbers: set[int] | None = None) -> int:
        """Return quantised bytes of these (or all) weights."""
        bits = 0.0
        for number, shape in self.weights.items():
            if numbers is None or number in numbers:
                bits += prod(shape) * (DENSE_BITS if len(shape) == 2 else VECTOR_BITS)
        return round(bits / 8)

    def macs(self, numbers: set[int] | None = None) -> int:
        """Return multiply-accumulates per token on these (or all) weights."""
        return sum(prod(shape) for shape in self.matrices(numbers))


def segment(traced: ir.OpView, hidden: int) -> list[Segment]:
    """Cut a traced step at its residual additions.

    Raises:
        InputError: it holds no routed experts.
    """
    arguments = traced.regions[0].blocks[0].arguments
    weights = _weight_arguments(traced)
    shapes = {n: _shape(arguments[n]) for n in weights}
    carried: dict[ir.Value, set[int]] = {arguments[n]: {n} for n in weights}
    depth: dict[ir.Value, int] = {a: 0 for a in arguments if a.arg_number not in weights}
    sources: dict[ir.Value, set[int]] = {a: set() for a in depth}
    segments = [Segment()]
    for op in traced.regions[0].blocks[0]:
        operands, results = list(op.operation.operands), op.operation.results
        if op.operation.name == "func.return":
            break
        used = set().union(*(carried.get(v, set()) for v in operands))
        if not any(v in depth for v in operands):
            # Weights that are cast, transposed or put in a list: they count where they meet an activation.
            carried.update((result, used) for result in results)
            continue
        level = max((depth.get(v, 0) for v in operands), default=0)
        if op.operation.name != "torch.aten.embedding" and not _is_operator(op, "torch.moe.experts"):
            for number in sorted(used):
                segments[level].weights.setdefault(number, shapes[number])
                segments[level].lines.setdefault(number, line_of(op))
        used = used.union(*(sources[v] for v in operands if depth.get(v) == level))
        _note_anchor(op, segments[level], sources)
        if _is_residual_add(op, hidden):
            level, used = level + 1, set()
            if level == len(segments):
                segments.append(Segment())
        for result in results:
            depth[result], sources[result] = level, used
    if not any(s.experts is not None for s in segments):
        raise InputError(f"{NAME}: @{traced.attributes['sym_name'].value} has no routed experts: this is a dense model")
    return [s for s in segments if s.weights or s.attention is not None or s.experts is not None]


def _note_anchor(op: ir.OpView, current: Segment, sources: dict[ir.Value, set[int]]) -> None:
    if _is_operator(op, "torch.moe.attention"):
        current.attention = op
    elif _is_operator(op, "torch.moe.experts"):
        current.experts = op
        current.routing_weights = set().union(*(sources.get(v, set()) for v in list(op.operation.operands)[:3]))


def _is_operator(op: ir.OpView, name: str) -> bool:
    return bool(op.operation.name == "torch.operator" and op.attributes["name"].value == name)


def _weight_arguments(traced: ir.OpView) -> set[int]:
    if "arg_attrs" not in traced.attributes:
        return set()
    return {n for n, entry in enumerate(traced.attributes["arg_attrs"]) if "moe.parameter" in entry}


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


def expert_layers(segments: list[Segment], model: ModelShape) -> Iterator[ExpertLayer]:
    """Read the routed experts of every MoE layer off the operands of its experts operator."""
    layer = -1
    for part in segments:
        if part.attention is not None:
            layer = _constant(part.attention.operation.operands[4])
        if part.experts is None:
            continue
        operands = part.experts.operation.operands
        shapes = [_shape(v) for v in operands[3].owner.operands]
        parameters = sum(prod(shape[1:]) for shape in shapes)
        msb_bytes = round(parameters * model.msb_bits / 8)
        yield ExpertLayer(
            name=store_name(layer),
            layer=layer,
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
        layer = -1
        head = max(n for n, s in enumerate(segments) if s.attention is None and s.experts is None and s.matrices())
        for number, part in enumerate(segments):
            if part.attention is not None:
                layer = _constant(part.attention.operation.operands[4])
                stream = self._attention(stream, part, layer)
            elif part.experts is not None:
                stream = self._experts(stream, part, layer)
            elif number == head:
                return self._head(stream, part)
            elif part.matrices() and layer >= 0:
                stream = self._add(stream, self._mlp(stream, part, layer, None), part.line())
        raise InputError(f"{NAME}: the traced graph has no head")

    def _attention(self, stream: ir.Value, part: Segment, layer: int) -> ir.Value:
        assert part.attention is not None
        query, key, value, _, _, window, latent = part.attention.operation.operands
        _, heads, _, key_dim = _shape(query)
        value_dim = _shape(value)[3]
        cached = _constant(latent)
        kv_elements = cached or _shape(key)[1] * key_dim + _shape(value)[1] * value_dim
        attributes = {
            "layer": layer,
            "weight_bytes": part.size_bytes(),
            "macs_per_token": part.macs(),
            "gathered_elements": heads * value_dim + self.model.hidden,
            "kv_elements": kv_elements,
            "window": _constant(window),
            # With a cached latent, queries are absorbed: scores and values both run over the latent.
            "attention_macs": heads * (2 * cached if cached else key_dim + value_dim),
            "kv_heads": 1 if cached else _shape(key)[1],
            # Besides its output, a part of a cache gives each head's maximum and sum.
            "merged_elements": heads * ((cached or value_dim) + 2),
        }
        line = _at(line_of(part.attention))
        return moe.AttentionOp(stream, **self._attributes(attributes), result=self.hidden, loc=line).result

    def _experts(self, stream: ir.Value, part: Segment, layer: int) -> ir.Value:
        assert part.experts is not None
        operands = part.experts.operation.operands
        count, top_k = _shape(operands[3].owner.operands[0])[0], _shape(operands[1])[-1]
        of_router = {
            "layer": layer,
            "weight_bytes": part.size_bytes(part.routing_weights),
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
            store=symbol_ref(store_name(layer)),
            slice=to_attribute(WHOLE_SLICE),
            result=self.hidden,
            loc=_at(line),
        ).result
        shared = set(part.weights) - part.routing_weights
        total = self._add(stream, routed, line)
        if any(len(part.weights[n]) == 2 for n in shared):
            total = self._add(total, self._mlp(stream, part, layer, shared), part.line(shared))
        return total

    def _mlp(self, stream: ir.Value, part: Segment, layer: int, shared: set[int] | None) -> ir.Value:
        matrices = part.matrices(shared)
        width = max(s[1] for s in matrices if s[0] == self.model.hidden)
        attributes = {
            "layer": layer,
            "weight_bytes": part.size_bytes(shared),
            "macs_per_token": part.macs(shared),
            "gathered_elements": width + self.model.hidden,
            "shared": int(shared is not None),
        }
        line = _at(part.line(shared))
        return moe.MlpOp(stream, **self._attributes(attributes), result=self.hidden, loc=line).result

    def _add(self, stream: ir.Value, added: ir.Value, line: str) -> ir.Value:
        return moe.AddOp(stream, added, result=self.hidden, loc=_at(line)).result

    def _head(self, stream: ir.Value, part: Segment) -> ir.Value:
        attributes = {"weight_bytes": part.size_bytes(), "macs_per_token": part.macs()}
        logits = moe.Logits.get(*self._i64(self.model.vocabulary))
        return moe.HeadOp(stream, **self._attributes(attributes), result=logits, loc=_at(part.line())).result

    @staticmethod
    def _attributes(values: dict[str, int]) -> dict[str, ir.Attribute]:
        return {name: to_attribute(value) for name, value in values.items()}


def store_name(layer: int) -> str:
    """Return the symbol of a layer's expert store."""
    return f"layer{layer}"


def _at(line: str) -> ir.Location:
    """Return a location in the model's own code, less where its package is installed."""
    file, _, number = line.rpartition(":")
    if not file:
        return ir.Location.unknown()
    return ir.Location.file(file.rpartition("site-packages/")[2], int(number), 0)
