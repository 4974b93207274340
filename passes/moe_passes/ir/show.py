"""IR for people: one line an operation or task, with units."""

from collections.abc import Callable, Iterator, Sequence

from torch_mlir import ir

from moe_passes.ir.dialects import model, sched
from moe_passes.ir.dialects.base import Open
from moe_passes.ir.module import line_of
from moe_passes.plan.errors import InputError
from moe_passes.plan.names import nearest

SHORTENED = 60
UNITS = (
    ("_bytes_per_second", 1.0, "B/s"),
    ("_macs_per_second", 1.0, "MAC/s"),
    ("_joules_per_byte", 1.0, "J/B"),
    ("_joules_per_mac", 1.0, "J/MAC"),
    ("_joules_per_bit", 1.0, "J/bit"),
    ("_seconds", 1.0, "s"),
    ("_bytes", 1.0, "B"),
    ("_ns", 1e-9, "s"),
    ("_watts", 1.0, "W"),
)
"""The unit that a name ends with: its value in SI units, and their name."""
PREFIXES = {1e12: "T", 1e9: "G", 1e6: "M", 1e3: "k", 1.0: "", 1e-3: "m", 1e-6: "µ", 1e-9: "n", 1e-12: "p", 1e-15: "f"}
Row = tuple[str, str, str, str]


def lines(module: ir.Module, names: Sequence[str] = ()) -> list[Row]:
    """Return a line for every operation: where it is, its name, the line of the model behind it, and what it says.

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
                yield (f"{where or 'module'}{number}", name, line_of(op), _says(op))
                yield from _rows(op.operation, f"@{_symbol(op)}")


def _says(op: ir.OpView) -> str:
    if op.operation.name == "sched.task":
        return _task(op)
    parts = []
    for name in op.attributes:
        if name not in ("sym_name", "function_type", "operandSegmentSizes", "arg_attrs"):
            parts.append(_value(op, name))
    name = _symbol(op)
    return ", ".join([f"@{name}", *parts] if name else parts)


def _symbol(op: ir.OpView) -> str:
    found = op.attributes["sym_name"].maybe_downcast() if "sym_name" in op.attributes else None
    return found.value if isinstance(found, ir.StringAttr) else ""


def _task(op: ir.OpView) -> str:
    work = str(op.attributes["work"]).removeprefix("#sched.").replace(" : i64", "").replace("array<i64: ", "[")
    modes = sched.read_modes(op)
    slot = op.attributes["slot"].maybe_downcast()
    if isinstance(slot, sched.Slot):
        start, mode = slot.start_ns.maybe_downcast().value, slot.mode.maybe_downcast().value
        when = f"starts {_microseconds(start)}, takes {_microseconds(modes[mode][0])}, mode {mode} of {len(modes)}"
    else:
        when = f"not scheduled, takes {' or '.join(_microseconds(ns) for ns, _ in modes)}"
    traffic = sched.read_traffic(op)
    moved = [_number(name, value) for name, value in vars(traffic).items() if value]
    return ", ".join([f"step {op.attributes['step'].value}", work, when, *moved])


def _microseconds(ns: int) -> str:
    return f"{ns / 1e3:.3f} µs"


def _value(op: ir.OpView, name: str) -> str:
    found = op.attributes[name].maybe_downcast()
    if isinstance(found, Open | sched.Open):
        return f"{name} open"
    if op.operation.name == "moe.expert_store" and name in DECISIONS:
        return f"{name} {DECISIONS[name](op)}"
    if isinstance(found, ir.IntegerAttr | ir.FloatAttr):
        return _number(name, found.value)
    text = " ".join(str(found).split())
    return f"{name} {text if len(text) <= SHORTENED else f'{text[:SHORTENED]}…'}"


def _number(name: str, value: float) -> str:
    """Word a number; what is negative was left to the compiler."""
    if value < 0:
        return f"{name} auto"
    for suffix, unit, shown in UNITS:
        if f"_{name}".endswith(suffix):
            return f"{name.removesuffix(suffix)} {_scaled(value * unit)}{shown}"
    return f"{name} {value:,}" if isinstance(value, int) else f"{name} {value:.6g}"


def _scaled(value: float) -> str:
    """Word a number with the SI prefix that leaves one to three digits before the point."""
    for factor, prefix in PREFIXES.items():
        if value >= factor:
            return f"{value / factor:.6g} {prefix}"
    return f"{value:.6g} "


def _residency(store: ir.OpView) -> str:
    msb, whole, deep = model.read_residency(store) or ((), (), ())
    return f"{len(msb)} msb, {len(whole)} whole" + (f", {len(deep)} deep" if deep else "")


def _placement(store: ir.OpView) -> str:
    replicas = model.read_placement(store)
    return f"{len(replicas)} replicas in {len({banks for _, banks in replicas})} bank sets"


def _needed(store: ir.OpView) -> str:
    shares = model.read_needed(store) or (0,)
    return f"{min(shares)} to {max(shares)} ‰"


DECISIONS: dict[str, Callable[[ir.OpView], str]] = {
    "residency": _residency,
    "placement": _placement,
    "needed": _needed,
}
"""How what is decided about a store is summed up."""
