"""Loading hardware files: shipped names, paths, `--set` overrides, and errors that name file, line and field."""

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from moe_passes.errors import InputError
from moe_passes.machine import Machine
from pydantic import ValidationError

from moe_compiler.target.schema import NOTES, SECTIONS, Section, Target

LARGEST_FILE_BYTES = 1_000_000


def shipped_folder() -> Path:
    """Return the folder of shipped hardware files: in the wheel, or at the top of a checkout."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "targets"
    return inside if inside.is_dir() else package.parent / "targets"


def shipped_targets() -> dict[str, Path]:
    """Return the shipped hardware files by name, sorted."""
    return {path.stem: path for path in sorted(shipped_folder().glob("*.yaml"))}


@dataclass(frozen=True)
class LoadedTarget:
    """A validated hardware file.

    Attributes:
        target: its content after overrides.
        path: where it was read.
        overrides: `PATH=VALUE` texts that were applied.
    """

    target: Target
    path: Path
    overrides: tuple[str, ...]

    def machine(self) -> Machine:
        """Return the machine in SI units."""
        return self.target.to_machine(self.overrides)

    def figures(self) -> list[dict[str, Any]]:
        """List every figure: path, unit, value and source."""
        overridden = {text.split("=", 1)[0] for text in self.overrides}
        rows = []
        for section, model in SECTIONS.items():
            part = _lookup(self.target, section)
            if part is None:
                continue
            for field in model.model_fields:
                path = f"{section}.{field}"
                if field in NOTES:
                    continue
                source = "--set" if path in overridden else part.source_of(field)
                rows.append({"path": path, "unit": unit_of(field), "value": getattr(part, field), "source": source})
        return rows


def unit_of(field: str) -> str:
    """Read the unit off a field's name."""
    units = {
        "_gb_s": "GB/s",
        "_gb": "GB",
        "_ns": "ns",
        "_pj_per_bit": "pJ/bit",
        "_pj_per_mac": "pJ/MAC",
        "_tops": "TOPS",
        "_w": "W",
    }
    return next((unit for suffix, unit in units.items() if field.endswith(suffix)), "1")


def load_target(name_or_path: str, overrides: tuple[str, ...] = ()) -> LoadedTarget:
    """Load a shipped hardware file by name, or any file by path, and apply overrides.

    Raises:
        InputError: unknown name, unreadable file, or a field that is not valid: file, line, field, value, valid values.
    """
    path = _resolve(name_or_path)
    root = _compose(path)
    lines: dict[str, int] = {}
    data = _plain(root, "", lines, path)
    if not isinstance(data, dict):
        raise InputError(f"{path}:1: a hardware file is a mapping that begins with 'schema: 1'")
    origin = dict.fromkeys(lines, str(path))
    for text in overrides:
        _override(data, text, path)
        origin[text.split("=", 1)[0].strip()] = f"--set {text}"
    try:
        target = Target.model_validate(data)
    except ValidationError as error:
        raise InputError(_word(error, path, lines, origin)) from None
    return LoadedTarget(target, path, tuple(_normal(text) for text in overrides))


def _resolve(name_or_path: str) -> Path:
    shipped = shipped_targets()
    if name_or_path in shipped:
        return shipped[name_or_path]
    path = Path(name_or_path)
    if path.is_file():
        return path
    if path.suffix in (".yaml", ".yml") or "/" in name_or_path:
        raise InputError(f"{name_or_path}: no such hardware file")
    near = difflib.get_close_matches(name_or_path, shipped, n=1, cutoff=0.3)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    raise InputError(f"unknown target '{name_or_path}'{hint} valid: {', '.join(shipped)}, or the path of a file")


def _compose(path: Path) -> yaml.Node:
    try:
        if path.stat().st_size > LARGEST_FILE_BYTES:
            raise InputError(f"{path}: over {LARGEST_FILE_BYTES:,} bytes; a hardware file is a few kilobytes")
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as text: {error}") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise InputError(f"{path}:{line}: not valid YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not valid YAML: {error}") from None
    if node is None:
        raise InputError(f"{path}:1: empty; a hardware file begins with 'schema: 1'")
    return node


def _plain(node: yaml.Node, path: str, lines: dict[str, int], file: Path) -> Any:
    """Turn a YAML node into plain values and note the line of every field."""
    lines[path] = node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            line = key_node.start_mark.line + 1
            child = f"{path}.{key}" if path else key
            if key in result:
                raise InputError(f"{file}:{line}: {child}: given twice")
            result[key] = _plain(value_node, child, lines, file)
            lines[child] = line
        return result
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, f"{path}.{i}", lines, file) for i, item in enumerate(node.value)]
    return _scalar(node)


def _scalar(node: yaml.Node) -> Any:
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_object(node, deep=True)
    finally:
        loader.dispose()


def _override(data: dict[str, Any], text: str, file: Path) -> None:
    path, equals, raw = text.partition("=")
    path = path.strip()
    if not equals or not path or not raw.strip():
        raise InputError(f"--set {text}: valid: --set PATH=VALUE, for example memories.hb.capacity_gb=4")
    section, _, field = path.rpartition(".")
    valid = _figure_paths(data)
    if path not in valid:
        missing = section in SECTIONS and field in SECTIONS[section].model_fields and field not in NOTES
        if missing:
            raise InputError(f"--set {text}: {file.stem} has no '{section}'")
        near = difflib.get_close_matches(path, valid, n=1, cutoff=0.3)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise InputError(f"--set {text}: no field '{path}'; {hint}`moec target show {file.stem}` lists all paths")
    place = data
    for key in section.split("."):
        place = place[key]
    try:
        place[field] = yaml.safe_load(raw)
    except yaml.YAMLError:
        raise InputError(f"--set {text}: '{raw}' is not a number or word") from None


def _figure_paths(data: dict[str, Any]) -> list[str]:
    paths = []
    for section, model in SECTIONS.items():
        place: Any = data
        for key in section.split("."):
            place = place.get(key) if isinstance(place, dict) else None
        if isinstance(place, dict):
            paths += [f"{section}.{field}" for field in model.model_fields if field not in NOTES]
    return paths


def _normal(text: str) -> str:
    path, _, value = text.partition("=")
    return f"{path.strip()}={value.strip()}"


def _lookup(target: Target, path: str) -> Section | None:
    part: Any = target
    for key in path.split("."):
        part = getattr(part, key, None)
    return part if isinstance(part, Section) else None


def _word(error: ValidationError, path: Path, lines: dict[str, int], origin: dict[str, str]) -> str:
    """Word pydantic's errors: one line a field, with file and line (or the --set that caused it)."""
    messages: dict[str, str] = {}
    for item in error.errors():
        keys = [str(key) for key in item["loc"] if str(key) not in ("constrained-float", "float", "literal['auto']")]
        field = ".".join(keys)
        known = next((".".join(keys[:n]) for n in range(len(keys), -1, -1) if ".".join(keys[:n]) in lines), "")
        place = origin.get(field, "")
        if not place.startswith("--set"):
            place = f"{path}:{lines.get(known, 1)}"
        messages.setdefault(field, f"{place}: {field}: {_reason(item, field)}")
    return "\n".join(messages.values())


def _reason(item: Any, field: str) -> str:
    kind, value = item["type"], item.get("input")
    name = field.rpartition(".")[2]
    if kind == "missing":
        return f"missing (unit: {unit_of(name)})" if unit_of(name) != "1" else "missing"
    if kind == "extra_forbidden":
        section = field.rpartition(".")[0]
        model = SECTIONS.get(section)
        valid = [f for f in model.model_fields if f not in NOTES] if model else list(_children(section))
        near = difflib.get_close_matches(name, valid, n=1, cutoff=0.4)
        hint = f"did you mean '{near[0]}'? " if near else ""
        return f"unknown field; {hint}valid: {', '.join(valid)}"
    detail = str(item["msg"]).replace("Input should be", "valid:")
    if name == "staging_gb":
        detail = "valid: a number of GB greater than 0, or 'auto'"
    return f"value {value!r}: {detail}" + (f" ({unit_of(name)})" if unit_of(name) != "1" else "")


def _children(section: str) -> list[str]:
    prefix = f"{section}." if section else ""
    below = {path.removeprefix(prefix).split(".")[0] for path in SECTIONS if path.startswith(prefix)}
    return sorted(below | ({"schema", "name", "description"} if not section else set()))
