"""IR for people: one line an operation or task, with units."""

from collections.abc import Iterator, Sequence

from torch_mlir import ir

from moe_passes.ir.dialects import sched
from moe_passes.ir.module import line_of
from moe_passes.plan.errors import InputError
from moe_passes.plan.names import nearest

SHORTENED = 60
UNITS = (
    ("_bytes_per_second", 1e9, "GB/s"),
    ("_macs_per_second", 1e12, "TMAC/s"),
    ("_joules_per_byte", 1e-12, "pJ/B"),
    ("_joules_per_mac", 1e-12, "pJ/MAC"),
    ("_seconds", 1e-9, "ns"),
    ("_bytes", 1e6, "MB"),
    ("_ns", 1e3, "µs"),
    ("_watts", 1.0, "W"),
)
"""The unit that a name ends with, and how it is shown."""
Row = tuple[str, str, str, str]


def lines(module: ir.Module, names: Sequence[str] = ()) -> list[Row]:
    """Return a line for every operation: where it is, its name, what it says, and the line of the model behind it.

    Args:
        module: what to show.
        names: of the operations to show; all of them where there are none.

    Raises:
        InputError: no operation has one of these names.
    """
    rows = list(_rows(module.operation, ""))
    there = {row[1] for row in rows}
    for name in names:
        if name not in there:
            raise InputError(f"--op {name}: the module holds no such operation{nearest(name, sorted(there))}")
    return [row for row in rows if not names or row[1] in names]


def _rows(parent: ir.Operation, where: str) -> Iterator[Row]:
    for region in parent.regions:
        for block in region.blocks:
            tasks = 0
            for op in block.operations:
                name = op.operation.name
                if name.endswith(".return"):
                    continue
                number = ""
                if name == "sched.task":
                    number, tasks = f" {tasks}", tasks + 1
                yield (f"{where}{number}", name, _says(op), line_of(op))
                inside = op.attributes["sym_name"].value if "sym_name" in op.attributes else ""
                yield from _rows(op.operation, f"@{inside}")


def _says(op: ir.OpView) -> str:
    if op.operation.name == "sched.task":
        return _task(op)
    parts = []
    for name in op.attributes:
        if name not in ("sym_name", "function_type", "operandSegmentSizes", "arg_attrs"):
            parts.append(f"{name} {_value(name, op.attributes[name])}")
    title = [f"@{op.attributes['sym_name'].value}"] if "sym_name" in op.attributes else []
    return ", ".join([*title, *parts])


def _task(op: ir.OpView) -> str:
    work = str(op.attributes["work"]).removeprefix("#sched.").replace(" : i64", "").replace("array<i64: ", "[")
    modes = sched.read_modes(op)
    slot = op.attributes["slot"].maybe_downcast()
    if isinstance(slot, sched.Slot):
        start, mode = slot.start_ns.maybe_downcast().value, slot.mode.maybe_downcast().value
        when = f"starts {start / 1e3:.3f} µs, takes {modes[mode][0] / 1e3:.3f} µs (mode {mode} of {len(modes)})"
    else:
        when = f"not scheduled, takes {' or '.join(f'{ns / 1e3:.3f}' for ns, _ in modes)} µs"
    traffic = sched.read_traffic(op)
    moved = [f"{name} {_number(name, value)}" for name, value in vars(traffic).items() if value]
    return ", ".join([f"step {op.attributes['step'].value}", work, when, *moved])


def _value(name: str, attribute: ir.Attribute) -> str:
    found = attribute.maybe_downcast()
    if isinstance(found, ir.IntegerAttr | ir.FloatAttr):
        return _number(name, found.value)
    text = str(found)
    return text if len(text) <= SHORTENED else f"{text[:SHORTENED]}…"


def _number(name: str, value: float) -> str:
    for suffix, unit, shown in UNITS:
        if name.endswith(suffix):
            return f"{value / unit:,.6g} {shown}"
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"
