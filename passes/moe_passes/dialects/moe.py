"""The `moe` dialect: one step of a mixture-of-experts decoder, the machine, and what passes decided.

Phases are functions: `@draft_step` runs `batch × 1` tokens, `@verify_step` runs `batch × (γ + 1)`. Their bodies
are dataflow on the types below. Weights are not values: `moe.expert_store` symbols stand for routed
experts, and both phases refer to them, because both read the same bytes.
"""

from typing import Any

from torch_mlir import ir
from torch_mlir.dialects import ext

from moe_passes.dialects.replicas import unflatten

LARGEST = 1e18
"""Of every number in a module: beyond any machine, and products of two stay finite."""
I64 = ir.IntegerAttr
F64 = ir.FloatAttr


class DenseArray(ir.Attribute):
    """Constraint `array<…>`: the binding's own class does not tell its IRDL name."""

    attr_name = "builtin.dense_array"


class Moe(ext.Dialect, name="moe"):
    """Mixture-of-experts models, machines and plans."""


class Tokens(Moe.Type, name="tokens"):
    """Token ids of a step: `batch` sequences of `width` tokens (−1: γ + 1, known after select-draft)."""

    batch: I64
    width: I64


class Hidden(Moe.Type, name="hidden"):
    """The residual stream: `batch × width` rows of `hidden` elements."""

    batch: I64
    width: I64
    hidden: I64


class Routing(Moe.Type, name="routing"):
    """A router's choice: `top_k` of `experts` for every row."""

    experts: I64
    top_k: I64


class Logits(Moe.Type, name="logits"):
    """Scores over the vocabulary for every row."""

    vocabulary: I64


def _fail(op: ir.OpView, message: str) -> bool:
    op.location.emit_error(f"'{op.operation.name}' op {message}")
    return False


def _all_at_least(op: ir.OpView, least: float, *names: str) -> bool:
    return all(_in_range(op, name, least, LARGEST) for name in names)


def _in_range(op: ir.OpView, name: str, least: float, most: float) -> bool:
    if name not in op.attributes:
        return _fail(op, f"requires attribute '{name}'")
    value = op.attributes[name].value
    if not least <= value <= most:
        return _fail(op, f"attribute '{name}' is {value}; valid: {least:g} to {most:g}")
    return True


class WorkloadOp(Moe.Operation, name="workload"):
    """The request (`moe_passes.workload.Workload`)."""

    batch: I64
    context: I64
    draft_length: I64
    seed: I64
    time_limit_seconds: F64

    def verify_invariants(self) -> bool:
        """Batch ≥ 1; context, seed and time limit ≥ 0; draft length ≥ −1 (auto)."""
        return (
            _all_at_least(self, 1, "batch")
            and _all_at_least(self, 0, "context", "time_limit_seconds")
            and _in_range(self, "seed", 0, 2**31 - 1)
            and _all_at_least(self, -1, "draft_length")
        )


class ModelOp(Moe.Operation, name="model"):
    """The model as a whole (`moe_passes.workload.ModelShape`)."""

    name: ir.StringAttr
    architecture: ir.StringAttr
    hidden: I64
    layers: I64
    vocabulary: I64
    total_parameters: I64
    embedding_parameters: I64
    expert_bits: F64
    msb_bits: F64

    def verify_invariants(self) -> bool:
        """Shapes are positive."""
        return (
            _all_at_least(self, 1, "hidden", "vocabulary", "total_parameters")
            and _in_range(self, "layers", 1, 1e5)
            and _in_range(self, "expert_bits", 1, 64)
            and _in_range(self, "msb_bits", 1, 64)
        )


class ProfileOp(Moe.Operation, name="profile"):
    """The routing trace that is compiled against (`moe_passes.workload.ProfileRecord`)."""

    name: ir.StringAttr
    kind: ir.StringAttr
    sha256: ir.StringAttr
    draft_routing: ir.StringAttr

    def verify_invariants(self) -> bool:
        """A profile is real or synthetic, nothing else."""
        if self.attributes["kind"].value not in ("real", "synthetic"):
            return _fail(self, 'attribute \'kind\' must be "real" or "synthetic"')
        return True


class MachineOp(Moe.Operation, name="machine"):
    """The machine; its parts follow it in the `@target` module."""

    name: ir.StringAttr
    static_watts: F64
    overrides: ir.ArrayAttr

    def verify_invariants(self) -> bool:
        """Power is not negative."""
        return _all_at_least(self, 0, "static_watts")


class MemoryOp(Moe.Operation, name="memory"):
    """One memory tier (`moe_passes.machine.Memory`)."""

    name: ir.StringAttr
    capacity_bytes: I64
    banks: I64
    bank_bytes_per_second: F64
    efficiency: F64
    latency_seconds: F64
    read_joules_per_byte: F64
    write_joules_per_byte: F64
    staging_bytes: I64

    def verify_invariants(self) -> bool:
        """There is at least one bank, it has a bandwidth, and nothing is negative."""
        return (
            _all_at_least(self, 1, "capacity_bytes", "bank_bytes_per_second")
            and _in_range(self, "banks", 1, 65536)
            and _in_range(self, "efficiency", 1e-6, 1)
            and _in_range(self, "latency_seconds", 0, 1e3)
            and _all_at_least(self, 0, "read_joules_per_byte", "write_joules_per_byte")
            and _all_at_least(self, -1, "staging_bytes")
        )


class EngineOp(Moe.Operation, name="engine"):
    """The processing elements (`moe_passes.machine.Engine`)."""

    name: ir.StringAttr
    elements: I64
    w4a8_macs_per_second: F64
    w8a8_macs_per_second: F64
    w4a8_joules_per_mac: F64
    w8a8_joules_per_mac: F64

    def verify_invariants(self) -> bool:
        """There is at least one element, and it computes."""
        return _all_at_least(self, 1, "elements", "w4a8_macs_per_second", "w8a8_macs_per_second") and _all_at_least(
            self, 0, "w4a8_joules_per_mac", "w8a8_joules_per_mac"
        )


class LinkOp(Moe.Operation, name="link"):
    """A link of the logic die (`moe_passes.machine.Link`)."""

    name: ir.StringAttr
    bytes_per_second: F64
    latency_seconds: F64
    joules_per_byte: F64

    def verify_invariants(self) -> bool:
        """A link has a bandwidth, and nothing is negative."""
        return (
            _all_at_least(self, 1, "bytes_per_second")
            and _in_range(self, "latency_seconds", 0, 1e3)
            and _all_at_least(self, 0, "joules_per_byte")
        )


class ExpertStoreOp(Moe.Operation, name="expert_store"):
    """The routed experts of one layer (`moe_passes.workload.ExpertLayer`).

    Decisions, added by passes as attributes: `residency` (array<i64>, per expert 0 none, 1 msb, 2 all; select-draft),
    `replicas` (array<i64>, expert, count and banks of every replica; partition-experts) and `needed_permille`
    (array<i64>, per expert the training rounds of 1,000 in which verify needed it; lower-to-tasks).
    """

    name: ir.StringAttr
    layer: I64
    experts: I64
    top_k: I64
    parameters: I64
    msb_bytes: I64
    residual_bytes: I64

    def verify_invariants(self) -> bool:
        """Sizes are positive, top-k fits, and decisions are about experts that exist."""
        if not _all_at_least(self, 1, "top_k", "parameters", "msb_bytes"):
            return False
        if not (_in_range(self, "experts", 1, 65536) and _all_at_least(self, 0, "layer", "residual_bytes")):
            return False
        experts, top_k = self.attributes["experts"].value, self.attributes["top_k"].value
        if top_k > experts:
            return _fail(self, f"routes to {top_k} of {experts} experts; valid: top_k of at most {experts}")
        if "residency" in self.attributes:
            residency = list(self.attributes["residency"])
            if len(residency) != experts or any(r not in (0, 1, 2) for r in residency):
                return _fail(self, f"attribute 'residency' must hold 0, 1 or 2 for each of {experts} experts")
        if "needed_permille" in self.attributes:
            shares = list(self.attributes["needed_permille"])
            if len(shares) != experts or any(not 0 <= share <= 1000 for share in shares):
                return _fail(self, f"attribute 'needed_permille' must hold 0 to 1000 for each of {experts} experts")
        if "replicas" in self.attributes:
            try:
                unflatten(list(self.attributes["replicas"]), experts)
            except ValueError as error:
                return _fail(self, f"attribute 'replicas': {error}")
        return True


class DraftOp(Moe.Operation, name="draft"):
    """What select-draft decided (`moe_passes.workload.DraftPlan`)."""

    length: I64
    bits: I64
    expert_fraction: F64
    acceptance_rate: F64
    break_even_acceptance: F64
    acceptance_source: ir.StringAttr
    staging_bytes: I64
    expert_bytes: I64
    dense_bytes: I64
    kv_bytes: I64

    def verify_invariants(self) -> bool:
        """γ is not negative, α is a fraction."""
        return (
            _all_at_least(self, 0, "staging_bytes", "expert_bytes", "dense_bytes", "kv_bytes")
            and _in_range(self, "length", 0, 4096)
            and _in_range(self, "bits", 1, 64)
            and _in_range(self, "expert_fraction", 0, 1)
            and _in_range(self, "acceptance_rate", 0, 1)
        )


class DispatchOp(Moe.Operation, name="dispatch"):
    """The dispatcher's static plan (`moe_passes.workload.DispatchPlan`)."""

    sure_permille: I64
    least_permille: I64
    likelihood_permille: DenseArray
    order: ir.StringAttr
    engine: ir.StringAttr

    def verify_invariants(self) -> bool:
        """Thresholds are not negative, rules are known."""
        if self.attributes["order"].value not in ("program", "ready", "likelihood"):
            return _fail(self, 'attribute \'order\' must be "program", "ready" or "likelihood"')
        if self.attributes["engine"].value not in ("free", "first"):
            return _fail(self, 'attribute \'engine\' must be "free" or "first"')
        if any(not 0 <= value <= 1000 for value in self.attributes["likelihood_permille"]):
            return _fail(self, "attribute 'likelihood_permille' must hold numbers from 0 to 1000")
        return _in_range(self, "sure_permille", 0, 1001) and _in_range(self, "least_permille", 0, 1001)


class SolverOp(Moe.Operation, name="solver"):
    """One solver call (`moe_passes.workload.SolverRecord`)."""

    pass_name: ir.StringAttr
    instance: ir.StringAttr
    status: ir.StringAttr
    objective: F64
    lower_bound: F64
    greedy: F64
    seed: I64
    unit: ir.StringAttr


class EmbedOp(Moe.Operation, name="embed"):
    """Look token embeddings up in external memory, one row a token."""

    tokens: ext.Operand[Tokens]
    row_bytes: I64
    result: ext.Result[Hidden]


class AttentionOp(Moe.Operation, name="attention"):
    """Norm, projections, rotary embedding, attention over the KV cache, output projection, residual add."""

    hidden: ext.Operand[Hidden]
    layer: I64
    weight_bytes: I64
    macs_per_token: I64
    gathered_elements: I64
    kv_elements: I64
    window: I64
    attention_macs: I64
    result: ext.Result[Hidden]

    def verify_invariants(self) -> bool:
        """Nothing is negative."""
        return _all_at_least(
            self, 0, "layer", "weight_bytes", "macs_per_token", "gathered_elements", "kv_elements", "window"
        ) and _all_at_least(self, 0, "attention_macs")


class RouterOp(Moe.Operation, name="router"):
    """Norm, router projection, top-k."""

    hidden: ext.Operand[Hidden]
    layer: I64
    weight_bytes: I64
    macs_per_token: I64
    result: ext.Result[Routing]

    def verify_invariants(self) -> bool:
        """Nothing is negative."""
        return _all_at_least(self, 0, "layer", "weight_bytes", "macs_per_token")


class ExpertsOp(Moe.Operation, name="experts"):
    """The routed experts of a layer, weighted and summed."""

    hidden: ext.Operand[Hidden]
    routing: ext.Operand[Routing]
    store: ir.FlatSymbolRefAttr
    result: ext.Result[Hidden]

    def verify_invariants(self) -> bool:
        """The routing's shape is that of the store."""
        module = self.operation
        while module.parent is not None and module.parent.name != "builtin.module":
            module = module.parent
        name = self.attributes["store"].value
        for op in module.parent.regions[0].blocks[0] if module.parent else ():
            if op.operation.name != "moe.expert_store" or op.attributes["name"].value != name:
                continue
            routing = Routing(self.operation.operands[1].type)
            shape = (op.attributes["experts"].value, op.attributes["top_k"].value)
            if (ir.IntegerAttr(routing.experts).value, ir.IntegerAttr(routing.top_k).value) != shape:
                return _fail(self, f"routing does not match store '{name}': {shape[1]} of {shape[0]} experts")
            return True
        return _fail(self, f"refers to an expert store '{name}' that does not exist")


class MlpOp(Moe.Operation, name="mlp"):
    """A dense feed-forward block: of a dense layer, or the shared experts of a MoE layer."""

    hidden: ext.Operand[Hidden]
    layer: I64
    weight_bytes: I64
    macs_per_token: I64
    gathered_elements: I64
    shared: I64
    result: ext.Result[Hidden]

    def verify_invariants(self) -> bool:
        """Nothing is negative."""
        return _all_at_least(self, 0, "layer", "weight_bytes", "macs_per_token", "gathered_elements")


class AddOp(Moe.Operation, name="add"):
    """Sum of the residual stream and what a block adds to it."""

    terms: ext.Operand[Any]
    more: ext.Operand[Any]
    result: ext.Result[Hidden]


class HeadOp(Moe.Operation, name="head"):
    """Final norm and the projection to the vocabulary."""

    hidden: ext.Operand[Hidden]
    weight_bytes: I64
    macs_per_token: I64
    result: ext.Result[Logits]

    def verify_invariants(self) -> bool:
        """Nothing is negative."""
        return _all_at_least(self, 0, "weight_bytes", "macs_per_token")
