"""What `moec compile -o` wrote, read back."""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from moe_passes.plan.errors import InputError
from pydantic import ValidationError

from moe_compiler.documents.base import Document
from moe_compiler.documents.cost import CostDocument
from moe_compiler.documents.held_out import HeldOutDocument
from moe_compiler.documents.json_file import malformed, read_json
from moe_compiler.documents.measured import MeasuredDocument
from moe_compiler.documents.placement import MOST_LAYERS, check_layers
from moe_compiler.documents.plan import PlanDocument
from moe_compiler.documents.record import CompileDocument
from moe_compiler.paths import is_file, read_text

SCHEMA = 1
Kind = TypeVar("Kind", bound=Document)
SNAPSHOT = re.compile(r"[0-9]{2}-([A-Za-z0-9_-]{1,80})\.mlir")
MOST_SNAPSHOTS = 100


@dataclass(frozen=True)
class CompiledFolder:
    """A compilation: every decision, and what it is estimated to cost; the rest is read when it is asked for."""

    path: Path
    plan: PlanDocument
    cost: CostDocument

    @cached_property
    def held_out(self) -> HeldOutDocument:
        """The held-out rounds as dispatched.

        Raises:
            InputError: they are missing (an earlier version did not write them), or damaged.
        """
        path = self.path / "held_out.json"
        if not path.is_file():
            raise InputError(f"{path}: is missing: it is a compile of an earlier version; valid: compile again")
        return read(path, HeldOutDocument)

    @cached_property
    def record(self) -> CompileDocument:
        """How the compilation ran.

        Raises:
            InputError: it is missing, of another version, or damaged.
        """
        return read(self.path / "compile.json", CompileDocument)

    @cached_property
    def measured(self) -> MeasuredDocument | None:
        """What a run measured; None where there was none.

        Raises:
            InputError: it is damaged.
        """
        path = self.path / "measured.json"
        return read(path, MeasuredDocument) if path.is_file() else None

    @cached_property
    def snapshots(self) -> tuple[tuple[str, Path], ...]:
        """After tracing and after every pass: its name, and the file of the IR."""
        found = sorted((self.path / "ir").glob("*.mlir"))[:MOST_SNAPSHOTS]
        named = [(SNAPSHOT.fullmatch(path.name), path) for path in found]
        return tuple((match[1], path) for match, path in named if match and is_file(path))


def read_folder(path: Path) -> CompiledFolder:
    """Read a compiled folder.

    Raises:
        InputError: it is no compile of ours, of another version, or damaged.
    """
    if not is_file(path / "plan.json"):
        raise InputError(f"{path}: is no compile of ours: it has no plan.json; valid: -o of moec compile")
    plan = read(path / "plan.json", PlanDocument)
    check_layers(plan.layers, plan.banks, str(path / "plan.json"))
    _check_plan(plan, str(path / "plan.json"))
    return CompiledFolder(path, plan, read_cost(path))


def _check_plan(plan: PlanDocument, where: str) -> None:
    """Check what an edit by hand can break: numbers of tasks, and one figure an expert.

    Raises:
        InputError: a part is wrong.
    """
    tasks = plan.round.tasks
    for number, task in enumerate(tasks):
        if task.id != number or any(not 0 <= before < number for before in task.after):
            raise InputError(
                f"{where}: round.tasks.{number}: id {task.id}, after {task.after[:4]}; valid: its place, and earlier "
                "tasks"
            )
    for place, held in enumerate(plan.round.staged):
        if not 0 <= held.first < len(tasks) or not 0 <= held.last < len(tasks):
            raise InputError(f"{where}: round.staged.{place}: tasks {held.first}, {held.last}; there are {len(tasks)}")
    numbers = [layer.layer for layer in plan.layers]
    most = plan.decoder_layers or MOST_LAYERS
    if numbers != sorted(set(numbers)) or numbers[-1] >= most:
        raise InputError(f"{where}: layers {str(numbers)[:60]}; valid: ascending, below decoder_layers, {most}")
    has_popularity, experts = bool(plan.layers[0].popularity), len(plan.layers[0].residency)
    for row, layer in enumerate(plan.layers):
        counted = {"residency": experts, "needed_permille": experts, "popularity": experts if has_popularity else 0}
        for name, count in counted.items():
            found = len(getattr(layer, name))
            if found != count:
                raise InputError(f"{where}: layers.{row}.{name}: {found} figures; valid: {count}, one an expert")


def read_snapshot(path: Path) -> str:
    """Read IR as text.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return read_text(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None


def read_cost(folder: Path) -> CostDocument:
    """Read cost.json.

    Raises:
        InputError: it is missing, of another version, or damaged.
    """
    return read(folder / "cost.json", CostDocument)


def read(path: Path, kind: type[Kind]) -> Kind:
    """Read a document of ours.

    Raises:
        InputError: it is missing, of another version, or damaged.
    """
    content = read_json(path, str(path))
    _check_texts(content, str(path))
    found = content.get("schema") if isinstance(content, dict) else None
    if found != SCHEMA:
        raise InputError(f"{path}: is of schema {str(found)[:20]}; valid: {SCHEMA}; compile again")
    try:
        return kind.model_validate(content, strict=False)
    except ValidationError as error:
        raise malformed(error, str(path)) from None


def _check_texts(content: Any, where: str) -> None:
    """Refuse text that is more than one line of letters: a terminal or a shell would do what it says.

    Raises:
        InputError: there is such text.
    """
    waiting = [content]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str) and not value.isprintable():
            raise InputError(f"{where}: holds the text {value[:60]!r}; valid: text without control characters")
        if isinstance(value, dict):
            waiting += [*value, *value.values()]
        elif isinstance(value, list):
            waiting += value
