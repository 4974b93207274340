"""What `moec compile -o` wrote, read back."""

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from moe_passes.plan.errors import InputError
from pydantic import ValidationError

from moe_compiler.documents.base import Document
from moe_compiler.documents.cost import CostDocument
from moe_compiler.documents.json_file import malformed, read_json
from moe_compiler.documents.placement import check_layers
from moe_compiler.documents.plan import PlanDocument

SCHEMA = 1
Kind = TypeVar("Kind", bound=Document)


@dataclass(frozen=True)
class CompiledFolder:
    """A compilation: every decision, and what it is estimated to cost."""

    path: Path
    plan: PlanDocument
    cost: CostDocument


def read_folder(path: Path) -> CompiledFolder:
    """Read a compiled folder.

    Raises:
        InputError: it is no compile of ours, of another version, or damaged.
    """
    if not (path / "plan.json").is_file():
        raise InputError(f"{path}: is no compile of ours: it has no plan.json; valid: -o of moec compile")
    plan = read(path / "plan.json", PlanDocument)
    check_layers(plan.layers, plan.banks, str(path / "plan.json"))
    return CompiledFolder(path, plan, read_cost(path))


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
    found = content.get("schema") if isinstance(content, dict) else None
    if found != SCHEMA:
        raise InputError(f"{path}: is of schema {str(found)[:20]}; valid: {SCHEMA}; compile again")
    try:
        return kind.model_validate(content, strict=False)
    except ValidationError as error:
        raise malformed(error, str(path)) from None
