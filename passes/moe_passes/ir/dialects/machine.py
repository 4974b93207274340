"""The machine: its memories, engine and links, in the module `@target`; and the sets of banks that placements name."""

from torch_mlir import ir

from moe_passes.ir.dialects.base import F64, I64, LARGEST, I64Array, MoeOperation, WrongError, array
from moe_passes.plan.machine import MOST_BANKS

LONGEST_LATENCY = 1e3
BY_WIDTH = {"widths": (1, LARGEST), "width_macs_per_second": (1, LARGEST)}


def check_widths(op: MoeOperation) -> None:
    """Refuse widths that do not ascend, or rates that are not one for each.

    Raises:
        WrongError: they are wrong.
    """
    widths, rates = (list(op.attributes[name]) for name in ("widths", "width_macs_per_second"))
    if widths != sorted(set(widths)) or len(widths) != len(rates):
        raise WrongError(f"attributes 'widths' ({widths[:9]}) and 'width_macs_per_second' ({rates[:9]}) do not match")


class MachineOp(MoeOperation, name="machine"):
    """The machine; its parts follow it in the `@target` module."""

    name: ir.StringAttr
    static_watts: F64
    overrides: ir.ArrayAttr

    def check(self) -> None:
        """Overrides are texts."""
        for text in array(self.attributes["overrides"], "attribute 'overrides'"):
            if not isinstance(text, ir.StringAttr):
                raise WrongError(f"attribute 'overrides' holds {str(text)[:60]}; valid: texts PATH=VALUE")


class MemoryOp(MoeOperation, name="memory"):
    """One memory tier (`plan.machine.Memory`)."""

    sym_name: ir.StringAttr
    capacity_bytes: I64
    banks: I64
    bank_bytes_per_second: F64
    efficiency: F64
    latency_seconds: F64
    read_joules_per_byte: F64
    write_joules_per_byte: F64
    staging_bytes: I64
    given: ir.StringAttr

    RANGES = {
        "capacity_bytes": (1, LARGEST),
        "banks": (1, MOST_BANKS),
        "bank_bytes_per_second": (1, LARGEST),
        "efficiency": (1e-6, 1),
        "latency_seconds": (0, LONGEST_LATENCY),
        "staging_bytes": (-1, LARGEST),
    }


class EngineOp(MoeOperation, name="engine"):
    """The processing elements (`plan.machine.Engine`)."""

    sym_name: ir.StringAttr
    w4a8_macs_per_second: F64
    w8a8_macs_per_second: F64
    w4a8_joules_per_mac: F64
    w8a8_joules_per_mac: F64
    attention_macs_per_second: F64
    attention_joules_per_mac: F64
    given: ir.StringAttr
    streams: I64
    step_seconds: F64
    layer_seconds: F64
    expert_seconds: F64
    width_seconds: F64
    widths: I64Array
    width_macs_per_second: I64Array

    RANGES = {
        "w4a8_macs_per_second": (1, LARGEST),
        "w8a8_macs_per_second": (1, LARGEST),
        "attention_macs_per_second": (1, LARGEST),
        "streams": (0, 1),
        "step_seconds": (0, LONGEST_LATENCY),
        "layer_seconds": (0, LONGEST_LATENCY),
        "expert_seconds": (0, LONGEST_LATENCY),
        "width_seconds": (0, LONGEST_LATENCY),
        **BY_WIDTH,
    }

    def check(self) -> None:
        """There is a rate for each width."""
        check_widths(self)


class FarEngineOp(MoeOperation, name="far_engine"):
    """What computes on the external memory (`plan.machine.FarEngine`)."""

    sym_name: ir.StringAttr
    macs_per_second: F64
    joules_per_mac: F64
    bytes_per_second: F64
    layer_seconds: F64
    expert_seconds: F64
    same_unit: I64
    widths: I64Array
    width_macs_per_second: I64Array

    RANGES = {
        "macs_per_second": (1, LARGEST),
        "bytes_per_second": (1, LARGEST),
        "layer_seconds": (0, LONGEST_LATENCY),
        "expert_seconds": (0, LONGEST_LATENCY),
        "same_unit": (0, 1),
        **BY_WIDTH,
    }

    def check(self) -> None:
        """There is a rate for each width."""
        check_widths(self)


class LinkOp(MoeOperation, name="link"):
    """A link of the logic die (`plan.machine.Link`)."""

    sym_name: ir.StringAttr
    bytes_per_second: F64
    latency_seconds: F64
    joules_per_byte: F64
    given: ir.StringAttr
    reduces: I64
    shared: I64
    half_duplex: I64

    RANGES = {
        "bytes_per_second": (1, LARGEST),
        "latency_seconds": (0, LONGEST_LATENCY),
        "reduces": (0, 1),
        "shared": (0, 1),
        "half_duplex": (0, 1),
    }


class BankSetOp(MoeOperation, name="bank_set"):
    """Banks of HB that placements name together."""

    sym_name: ir.StringAttr
    banks: I64Array

    RANGES = {"banks": (0, MOST_BANKS - 1)}

    def check(self) -> None:
        """Banks ascend; there is at least one."""
        banks = list(self.attributes["banks"])
        if not banks or banks != sorted(set(banks)):
            raise WrongError(f"attribute 'banks' is {banks[:20]}; valid: ascending, at least one")
