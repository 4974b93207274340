"""partition-experts: what HB keeps of each expert, over how many banks, in how many replicas, and in which banks.

A step runs the tokens of a batch through every layer. A layer of a step takes the longest of four times:

1. the busiest bank: the resident bytes of the step's distinct experts that lie in it, one replica of each, over the
   bandwidth of a bank;
2. the busiest elements: the multiply-accumulates of the step's tokens on what lies in a bank, over the rate of the
   elements at one bank; an expert that is sharded over n banks is computed in n equal parts;
3. the aggregation link: for every token, the number of distinct banks that hold a part of its resident experts, times
   the bytes of a partial sum, over the bandwidth of the link;
4. the external channel: the bytes of the step's distinct experts that are not resident, over its bandwidth.

Minimise the mean over training steps of the sum over layers, under the capacity of every bank. Where a layer has a
trial, candidates are made from the earlier training tokens and chosen on the latest, which made none of them.
"""

import math
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from moe_passes.plan.decisions import ALL, MSB, NONE, Replicas
from moe_passes.plan.errors import InputError, infeasible

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

NOBODY = -1
"""In routing: a place that no expert fills."""
MOST_EXPERTS, MOST_BANKS = 65536, 65536
SLACK_BYTES = 1.0
"""Rounding error that a full bank is forgiven."""


@dataclass(frozen=True)
class Rates:
    """What the machine can do.

    Attributes:
        banks: number of banks.
        bank_capacity_bytes: bytes of experts that one bank can hold, over all layers.
        bank_bytes_per_second: bandwidth of a bank.
        link_bytes_per_second: bandwidth of the aggregation link.
        external_bytes_per_second: bandwidth of the external channel; infinite where a step loads nothing.
        partial_sum_bytes: of one token from one bank.
        bank_macs_per_second: of the elements at one bank; infinite where computation is not priced.
    """

    banks: int
    bank_capacity_bytes: int
    bank_bytes_per_second: float
    link_bytes_per_second: float
    external_bytes_per_second: float
    partial_sum_bytes: int
    bank_macs_per_second: float = math.inf

    def __post_init__(self) -> None:
        if not 1 <= self.banks <= MOST_BANKS:
            raise InputError(f"banks is {self.banks}; valid: 1 to {MOST_BANKS}")
        if not self.bank_capacity_bytes >= 0:
            raise InputError(f"bank_capacity_bytes is {self.bank_capacity_bytes}; valid: 0 or more")
        if not 1 <= self.partial_sum_bytes < 2**62:
            raise InputError(f"partial_sum_bytes is {self.partial_sum_bytes}; valid: at least 1")
        for name in ("bank_bytes_per_second", "link_bytes_per_second"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value > 0):
                raise InputError(f"{name} is {value}; valid: a finite number above 0")
        for name in ("external_bytes_per_second", "bank_macs_per_second"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} is {getattr(self, name)}; valid: above 0")


@dataclass(frozen=True)
class Layer:
    """The experts of one layer, and who asked for them.

    Attributes:
        name: for people.
        experts: how many.
        msb_bytes: of one expert's most significant slice.
        whole_bytes: of one expert in full precision.
        routing: [step, token, k], expert ids of training steps, `NOBODY` where a place is not filled.
        residency: [expert], `NONE`, `MSB` or `ALL` where that is decided already; None where it is to be.
        making: [step, token, k], steps that placements are made from; None: the training steps.
        trial: [step, token, k], later steps that the best of them is chosen on; None: the training steps.
        macs_per_token: multiply-accumulates of a token on one expert.
    """

    name: str
    experts: int
    msb_bytes: int
    whole_bytes: int
    routing: IntArray
    residency: IntArray | None = None
    making: IntArray | None = None
    trial: IntArray | None = None
    macs_per_token: int = 0

    def __post_init__(self) -> None:
        where = f"layer '{self.name}'"
        if not 1 <= self.experts <= MOST_EXPERTS:
            raise InputError(f"{where}: {self.experts} experts; valid: 1 to {MOST_EXPERTS}")
        if not 1 <= self.msb_bytes <= self.whole_bytes < 2**53:
            raise InputError(f"{where}: slices of {self.msb_bytes} of {self.whole_bytes} bytes; valid: 1 ≤ msb ≤ all")
        if not 0 <= self.macs_per_token < 2**53:
            raise InputError(f"{where}: macs_per_token is {self.macs_per_token}; valid: 0 or more")
        for name, steps in (("routing", self.routing), ("making", self.making), ("trial", self.trial)):
            if steps is not None:
                self._check_steps(f"{where}: {name}", steps)
        if self.residency is not None and (
            self.residency.shape != (self.experts,) or not np.isin(self.residency, (NONE, MSB, ALL)).all()
        ):
            raise InputError(f"{where}: residency must hold 0, 1 or 2 for each of {self.experts} experts")

    def _check_steps(self, where: str, steps: IntArray) -> None:
        if steps.ndim != 3 or steps.dtype.kind not in "iu" or not steps.size:
            raise InputError(
                f"{where} has type {steps.dtype} and shape {steps.shape}; "
                "valid: integers [step, token, k], at least one"
            )
        if steps.min() < NOBODY or steps.max() >= self.experts:
            raise InputError(f"{where} holds an expert id outside -1 to {self.experts - 1}")

    @cached_property
    def made(self) -> "Layer":
        """The layer with the steps that placements are made from."""
        return self if self.making is None else replace(self, routing=self.making, making=None)

    @cached_property
    def judged(self) -> "Layer":
        """The layer with the steps that placements are chosen on."""
        return self if self.trial is None else replace(self, routing=self.trial, making=None, trial=None)

    def resident_bytes(self, residency: IntArray) -> IntArray:
        """Return the bytes of each expert that HB keeps: [expert]."""
        return np.choose(residency, [0, self.msb_bytes, self.whole_bytes]).astype(np.int64)

    @cached_property
    def used(self) -> npt.NDArray[np.bool_]:
        """Which experts each training step uses: [step, expert]."""
        return distinct(self.routing, self.experts)


@dataclass(frozen=True)
class Problem:
    """A machine and the layers that share its banks.

    Raises:
        InputError: no layer, or layers with different numbers of steps.
        InfeasibleError: residency is given, and its bytes do not fit the banks together.
    """

    rates: Rates
    layers: tuple[Layer, ...]

    def __post_init__(self) -> None:
        if not self.layers:
            raise InputError("no layers; valid: at least one")
        counts = {len(layer.routing) for layer in self.layers}
        if len(counts) != 1:
            raise InputError(f"layers have {sorted(counts)} training steps; valid: one number for all")
        fixed = [int(la.resident_bytes(la.residency).sum()) for la in self.layers if la.residency is not None]
        if len(fixed) not in (0, len(self.layers)):
            raise InputError("residency is given for some layers; valid: for all or none")
        available = self.rates.banks * self.rates.bank_capacity_bytes
        if sum(fixed) > available:
            raise infeasible("the resident experts", "hb", sum(fixed), available, ["fewer resident experts"])


@dataclass(frozen=True)
class LayerProblem:
    """One layer with its residency decided, and its share of every bank.

    Attributes:
        rates: of the machine.
        layer: the experts.
        residency: [expert].
        bank_limit_bytes: bytes of this layer that one bank may hold; at least an even share of what is resident.
        spare_bytes: bytes, in all banks together, that replicas may take.
        free_bytes: bytes that all layers together leave free: what replicas could take if no other layer took any.
    """

    rates: Rates
    layer: Layer
    residency: IntArray
    bank_limit_bytes: float
    spare_bytes: float
    free_bytes: float = math.inf

    @cached_property
    def sizes(self) -> FloatArray:
        """Resident bytes of each expert: [expert]."""
        return self.layer.resident_bytes(self.residency).astype(np.float64)


@dataclass(frozen=True)
class Placement:
    """One layer's answer.

    Attributes:
        residency: [expert], `NONE`, `MSB` or `ALL`.
        replicas: banks of every replica of every expert.
        objective: mean seconds of a training step.
        trial: mean seconds of a step that it was chosen on; without a trial, the objective.
        lower_bound: proved bound on it, over all placements of this residency.
        greedy: objective of `lpt`, or of `shard-N` over all banks where whole experts do not fit.
        baseline: the best baseline on the trial and its objective, which the answer is never above.
        stages: (stage, objective after it), in order.
    """

    residency: IntArray
    replicas: Replicas
    objective: float
    lower_bound: float
    greedy: float
    baseline: tuple[str, float]
    stages: tuple[tuple[str, float], ...]
    trial: float


@dataclass(frozen=True)
class Solution:
    """A placement of every layer; seconds are sums over layers."""

    layers: tuple[Placement, ...]
    seed: int
    objective: float = field(init=False)
    lower_bound: float = field(init=False)
    trial: float = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "objective", sum(layer.objective for layer in self.layers))
        object.__setattr__(self, "trial", sum(layer.trial for layer in self.layers))
        object.__setattr__(self, "lower_bound", sum(layer.lower_bound for layer in self.layers))


def distinct(routing: IntArray, experts: int) -> npt.NDArray[np.bool_]:
    """Return which experts each step uses: [step, expert], from routing [step, token, k]."""
    used = np.zeros((len(routing), experts + 1), dtype=np.bool_)
    np.put_along_axis(used, routing.reshape(len(routing), -1), True, axis=1)
    return used[:, :experts]


def tokens_of(routing: IntArray, experts: int) -> IntArray:
    """Return how many tokens of each step use each expert: [step, expert], from routing [step, token, k]."""
    steps, width = len(routing), experts + 1
    flat = routing.reshape(steps, -1) + 1 + width * np.arange(steps)[:, None]
    return np.bincount(flat.ravel(), minlength=steps * width).reshape(steps, width)[:, 1:]


def parts(replicas: Replicas, sizes: IntArray | FloatArray, banks: int) -> FloatArray:
    """Return the bytes that each bank holds of a layer: [bank]."""
    held = np.zeros(banks)
    for copies, size in zip(replicas, sizes, strict=True):
        for copy in copies:
            held[list(copy)] += float(size) / len(copy)
    return held
