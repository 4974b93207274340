"""Loading hardware files: shipped names, paths, `--set` overrides, and errors that name file, line and field."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml
from moe_passes.plan.errors import InputError
from moe_passes.plan.machine import Machine
from moe_passes.plan.names import did_you_mean, nearest
from moe_passes.plan.tiers import Tiers
from pydantic import Field, ValidationError
from pydantic.fields import FieldInfo

from moe_compiler.hardware.schema import LARGEST, NOTES, SMALLEST, Section
from moe_compiler.hardware.schema_1 import RETIRED, SECTIONS, Target
from moe_compiler.hardware.schema_2 import TieredTarget, sections_of
from moe_compiler.paths import is_file, read_text

STRUCTURE = ("memory", "unit", "streams", "from_", "to", "within", "across", "sharing", "duplex")
"""Fields that say what belongs to what: no figures."""
LARGEST_FILE_BYTES = 100_000
DEEPEST_NESTING = 8
UNION_BRANCHES = ("constrained-float", "float", "literal['auto']", "dict[str,str]", "str", "[key]")
"""What pydantic adds to the place of an error in a field that takes one of several types, or in a key."""
_NUMBER = re.compile(r"[-+]?(0|[1-9][0-9]{0,30})(\.[0-9]{0,30})?([eE][-+]?[0-9]{1,3})?")
_WORDS: dict[str, bool | float | None] = {
    "true": True,
    "false": False,
    "null": None,
    "~": None,
    "": None,
    ".nan": float("nan"),
    ".inf": float("inf"),
    "-.inf": float("-inf"),
}


def shipped_folder() -> Path:
    """Return the folder of shipped hardware files: in the wheel, or at the top of a checkout."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "targets"
    return inside if inside.is_dir() else package.parent / "targets"


def shipped_targets() -> dict[str, Path]:
    """Return the shipped hardware files by name, sorted."""
    return {path.stem: path for path in sorted(shipped_folder().glob("*.yaml"))}


def template(kind: str) -> str:
    """Return the text of a hardware file to start from.

    Raises:
        InputError: no template of that kind.
    """
    found = {path.stem: path for path in sorted((Path(__file__).parent / "templates").glob("*.yaml"))}
    if kind not in found:
        raise InputError(f"no template '{kind[:40]}'{nearest(kind, found)}")
    return found[kind].read_text(encoding="utf-8")


Document = Annotated[Target | TieredTarget, Field(discriminator="schema_")]
"""Any hardware file."""


@dataclass(frozen=True)
class LoadedTarget:
    """A validated hardware file.

    Attributes:
        target: its content after overrides.
        path: where it was read.
        overrides: `PATH=VALUE` texts that were applied.
        sections: its sections with figures, by path.
    """

    target: Target | TieredTarget
    path: Path
    overrides: tuple[str, ...]
    sections: dict[str, type[Section]]

    def machine(self) -> Machine:
        """Return the machine in SI units, as the passes know it."""
        return self._latest().to_machine(self.overrides)

    def tiers(self) -> Tiers:
        """Return the machine as a chain of memories, in SI units."""
        return self._latest().to_tiers()

    def _latest(self) -> TieredTarget:
        return self.target.upgraded() if isinstance(self.target, Target) else self.target

    def figures(self) -> list[dict[str, Any]]:
        """List every figure: path, unit, value and source; first the order of memories, which follows from the rest."""
        overridden = {text.split("=", 1)[0] for text in self.overrides}
        order = " <- ".join(tier.name for tier in self.tiers().tiers)
        rows = [{"path": "memories", "unit": "near <- far", "value": order, "source": "engines and links"}]
        for section, model in self.sections.items():
            part = _lookup(self.target, section)
            if part is None:
                continue
            for field in model.model_fields:
                path = f"{section}.{model.model_fields[field].alias or field}"
                if field in NOTES or field in STRUCTURE or getattr(part, field) is None:
                    continue
                if isinstance(self.target, TieredTarget) and field not in part.model_fields_set:
                    continue
                for key, value in _entries(getattr(part, field)):
                    at = f"{path}{key}"
                    source = "--set" if at in overridden else part.source_of(f"{field}{key}")
                    rows.append({"path": at, "unit": unit_of(field), "value": value, "source": source})
        return rows


def _entries(value: Any) -> list[tuple[str, Any]]:
    """Return the figures of a field: itself, or of one by format or width each entry (`.w8a8`)."""
    return [(f".{key}", each) for key, each in value.items()] if isinstance(value, dict) else [("", value)]


def unit_of(field: str) -> str:
    """Read the unit off a field's name."""
    units = {
        "_gb_s": "GB/s",
        "_gb": "GB",
        "_ns": "ns",
        "_us": "us",
        "_pj_per_bit": "pJ/bit",
        "_pj_per_mac": "pJ/MAC",
        "tops": "TOPS",
        "tops_by_width": "TOPS",
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
        raise InputError(f"{path}:1: a hardware file is a mapping that begins with 'schema: 2'")
    origin = dict.fromkeys(lines, str(path))
    _check_given_once(overrides)
    _drop_retired(data)
    is_tiered = data.get("schema") == 2
    sections = sections_of(data) if is_tiered else SECTIONS
    for text in overrides:
        _override(data, text, path, sections)
        origin[text.split("=", 1)[0].strip()] = f"--set {text}"
    try:
        target: Target | TieredTarget = (TieredTarget if is_tiered else Target).model_validate(data)
    except ValidationError as error:
        raise InputError(_word(error, path, lines, origin, sections)) from None
    if isinstance(target, TieredTarget):
        for field, reason in target.problems():
            place = origin.get(field, "")
            where = place if place.startswith("--set") else f"{path}:{_line_of(field, lines)}"
            raise InputError(f"{where}: {field}: {reason}")
    return LoadedTarget(target, path, tuple(_normal(text) for text in overrides), sections)


def _line_of(field: str, lines: dict[str, int]) -> int:
    keys = field.split(".")
    return next((lines[".".join(keys[:n])] for n in range(len(keys), 0, -1) if ".".join(keys[:n]) in lines), 1)


def _drop_retired(data: dict[str, Any]) -> None:
    for path in RETIRED:
        section, _, field = path.rpartition(".")
        place: Any = data
        for key in section.split("."):
            place = place.get(key) if isinstance(place, dict) else None
        if isinstance(place, dict):
            place.pop(field, None)


def _check_given_once(overrides: tuple[str, ...]) -> None:
    paths = [text.partition("=")[0].strip() for text in overrides]
    twice = next((path for path in paths if paths.count(path) > 1), None)
    if twice is not None:
        raise InputError(f"--set {twice}: given twice")


def _resolve(name_or_path: str) -> Path:
    shipped = shipped_targets()
    if name_or_path in shipped:
        return shipped[name_or_path]
    path = Path(name_or_path)
    if is_file(path):
        return path
    if path.suffix in (".yaml", ".yml") or "/" in name_or_path:
        raise InputError(f"{name_or_path}: no such hardware file (or not a regular file)")
    raise InputError(f"unknown target '{name_or_path}'{nearest(name_or_path, shipped)}, or the path of a file")


def _compose(path: Path) -> yaml.Node:
    try:
        text = read_text(path, LARGEST_FILE_BYTES)
        _check_plain(text, path)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as text: {error}") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise InputError(f"{path}:{line}: not valid YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not valid YAML: {error}") from None
    if node is None:
        raise InputError(f"{path}:1: empty; a hardware file begins with 'schema: 2'")
    return node


def _check_plain(text: str, path: Path) -> None:
    """Refuse what a hardware file has no use for: anchors, tags, several documents, deep nesting."""
    depth = documents = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        where = f"{path}:{event.start_mark.line + 1 if event.start_mark else 1}"
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise InputError(f"{where}: anchors and aliases are not supported; write the value out")
        tag = getattr(event, "tag", None)
        if tag:
            raise InputError(f"{where}: tag '{tag}' is not supported; write a plain value")
        documents += isinstance(event, yaml.DocumentStartEvent)
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST_NESTING or documents > 1:
            raise InputError(f"{where}: a hardware file is one document, nested at most {DEEPEST_NESTING} deep")


def _plain(node: yaml.Node, path: str, lines: dict[str, int], file: Path) -> Any:
    """Turn a YAML node into plain values and note the line of every field."""
    lines[path] = node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise InputError(f"{file}:{line}: a key must be a word")
            key = str(key_node.value)
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
    quoted = isinstance(node, yaml.ScalarNode) and node.style is not None
    return str(node.value) if quoted else parse_value(str(node.value))


def parse_value(text: str) -> Any:
    """Read a plain value: a decimal number (also `1e9`), true, false, null, else a word."""
    text = text.strip()
    match = _NUMBER.fullmatch(text)
    if match:
        return float(text) if match.group(2) or match.group(3) else int(text)
    return _WORDS.get(text.lower(), text)


def _override(data: dict[str, Any], text: str, file: Path, sections: dict[str, type[Section]]) -> None:
    path, equals, raw = text.partition("=")
    path = path.strip()
    if not equals or not path or not raw.strip():
        raise InputError(f"--set {text}: valid: --set PATH=VALUE, for example memories.hb.capacity_gb=4")
    section = next((name for name in sections if path.startswith(f"{name}.")), "")
    field, _, key = path.removeprefix(f"{section}.").partition(".")
    valid = _figure_paths(data, sections)
    if path not in valid and not (key and section and _is_by_name(sections[section], field)):
        if section and not any(known.startswith(f"{section}.") for known in valid):
            raise InputError(f"--set {text}: {file.stem} has no '{section}'")
        hint = did_you_mean(path, valid)
        known = f"{hint} " if hint else ""
        shown = file.stem if shipped_targets().get(file.stem) == file else file
        raise InputError(f"--set {text}: no field '{path}'; {known}`moec target show {shown}` lists all paths")
    place = data
    for name in section.split("."):
        place = place[name]
    if key:
        entries = place.setdefault(field, {})
        if not isinstance(entries, dict):
            raise InputError(f"--set {text}: {section}.{field} of {file.stem} is no mapping")
        entries[key] = parse_value(raw)
    else:
        place[field] = parse_value(raw)


def _is_by_name(section: type[Section], field: str) -> bool:
    """Say whether a field holds a figure for each of several formats or widths."""
    if field not in section.model_fields or field in NOTES:
        return False
    kind = section.model_fields[field].annotation
    return any(get_origin(branch) is dict for branch in (kind, *get_args(kind)))


def _figure_paths(data: dict[str, Any], sections: dict[str, type[Section]]) -> list[str]:
    paths = []
    for section, model in sections.items():
        place: Any = data
        for key in section.split("."):
            place = place.get(key) if isinstance(place, dict) else None
        if isinstance(place, dict):
            for name, info in model.model_fields.items():
                if name not in NOTES:
                    given = place.get(info.alias or name)
                    keys = [f".{key}" for key in given] if isinstance(given, dict) else [""]
                    paths += [f"{section}.{info.alias or name}{key}" for key in keys]
    return paths


def _normal(text: str) -> str:
    path, _, value = text.partition("=")
    return f"{path.strip()}={value.strip()}"


def _lookup(target: Target | TieredTarget, path: str) -> Section | None:
    part: Any = target
    for key in path.split("."):
        part = part.get(key) if isinstance(part, dict) else getattr(part, key, None)
    return part if isinstance(part, Section) else None


def _word(
    error: ValidationError,
    path: Path,
    lines: dict[str, int],
    origin: dict[str, str],
    sections: dict[str, type[Section]],
) -> str:
    """Word pydantic's errors: one line a field, with file and line (or the --set that caused it)."""
    messages: dict[str, str] = {}
    for item in error.errors():
        keys = [str(key) for key in item["loc"] if str(key) not in UNION_BRANCHES]
        field = ".".join(keys)
        known = next((".".join(keys[:n]) for n in range(len(keys), -1, -1) if ".".join(keys[:n]) in lines), "")
        place = origin.get(field, "")
        if not place.startswith("--set"):
            place = f"{path}:{lines.get(known, 1)}"
        messages.setdefault(field, f"{place}: {field}: {_reason(item, field, sections)}")
    return "\n".join(messages.values())


def _reason(item: Any, field: str, sections: dict[str, type[Section]]) -> str:
    kind, value = item["type"], item.get("input")
    name = field.rpartition(".")[2]
    if kind == "missing":
        return f"missing (unit: {unit_of(name)})" if unit_of(name) != "1" else "missing"
    if kind == "extra_forbidden":
        section = field.rpartition(".")[0]
        model = sections.get(section)
        valid = [f for f in model.model_fields if f not in NOTES] if model else list(_children(section, sections))
        return f"unknown field{nearest(name, valid)}"
    shown = {True: "true", False: "false", None: "null"}.get(value, repr(value)) if _is_word(value) else repr(value)
    return f"value {shown[:80]}: {_valid(item, field, sections)}"


def _is_word(value: Any) -> bool:
    return value is None or isinstance(value, bool)


def _valid(item: Any, field: str, sections: dict[str, type[Section]]) -> str:
    """Say what a field takes, in its unit."""
    if item["type"] == "value_error":
        return str(item["msg"]).removeprefix("Value error, ")
    return f"valid: {_takes(item, field, sections)}"


def _takes(item: Any, field: str, sections: dict[str, type[Section]]) -> str:
    section, _, name = field.rpartition(".")
    if item["type"] == "string_pattern_mismatch" and item["loc"][-1] == "[key]":
        return "w<bits>a<bits>, as w8a8, or attention" if ".tops" in field else "letters, digits and _, as vram_2"
    if item["type"] in ("model_type", "model_attributes_type", "dict_type"):
        return f"a mapping with {', '.join(_children(field, sections)) or 'figures'}"
    model = sections.get(section)
    if model is None or name not in model.model_fields or name in NOTES:
        return str(item["msg"]).replace("Input should be ", "")
    unit = f" {unit_of(name)}" if unit_of(name) != "1" else ""
    annotation, metadata = _without_none(model.model_fields[name].annotation, model.model_fields[name].metadata)
    limits = {key: getattr(m, key) for m in metadata for key in ("ge", "gt", "le") if getattr(m, key, None) is not None}
    if name == "staging_gb":
        return f"a number from {SMALLEST:g} to {LARGEST:g}{unit}, or 'auto'"
    if get_origin(annotation) is Literal:
        return " or ".join(get_args(annotation))
    if annotation is bool:
        return "true or false"
    kind = "an integer" if annotation is int else "a number"
    return f"{kind} from {limits.get('ge', 0):g} to {limits.get('le', LARGEST):g}{unit}"


def _without_none(annotation: Any, metadata: list[Any]) -> tuple[Any, list[Any]]:
    """Return the type of a field that may be left out, and what limits it."""
    branches = [branch for branch in get_args(annotation) if branch is not type(None)]
    if type(None) not in get_args(annotation) or len(branches) != 1:
        return annotation, metadata
    if get_origin(branches[0]) is not Annotated:
        return branches[0], metadata
    inner, *notes = get_args(branches[0])
    found = [part for note in notes for part in (note.metadata if isinstance(note, FieldInfo) else [note])]
    return inner, found


def _children(section: str, sections: dict[str, type[Section]]) -> list[str]:
    prefix = f"{section}." if section else ""
    below = {path.removeprefix(prefix).split(".")[0] for path in sections if path.startswith(prefix)}
    model = sections.get(section)
    if model:
        return [field for field in model.model_fields if field not in NOTES]
    return sorted(below | ({"schema", "name", "description"} if not section else set()))
