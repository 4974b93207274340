"""Pages of the site that are derived: passes, file formats, dialects, commands, examples (a MkDocs hook)."""

import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import click
from markdown.extensions.toc import slugify
from mkdocs.structure.files import File, Files
from pydantic import BaseModel

ROOT = Path(__file__).parents[1]
REFERENCE = "reference/examples.md"
EXAMPLE = re.compile(r"\]\(\.\./(examples/[^)#]+)\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the derived pages."""
    pages = {
        "reference/commands.md": commands(),
        "reference/formats.md": formats(),
        "reference/dialects.md": dialects(),
        REFERENCE: examples(),
        **{f"reference/passes/{name}.md": text for name, text in passes().items()},
    }
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Let links to examples, which lie beside the documentation, lead to the page that shows them."""
    return EXAMPLE.sub(lambda match: f"]({REFERENCE}#{_slug(match[1])})", markdown)


def examples() -> str:
    """Return a page with the source of every example."""
    lines = ["# Examples", "", "Each runs as its first lines say; the tests run all of them.", ""]
    for path in sorted(ROOT.glob("examples/**/*.py")):
        lines += [f"## {path.relative_to(ROOT)}", "", *(f"    {line}" for line in path.read_text().splitlines()), ""]
    for name in ("examples/pass_package", "examples/tiny-moe/README.md"):
        lines += [f"## {name}", "", "See the repository.", ""]
    return "\n".join(lines)


def _slug(path: str) -> str:
    return slugify(path, "-")


def on_config(config: Any) -> Any:
    """Put a page a pass into the navigation, in the order of the pipeline."""
    reference = next(part["Reference"] for part in config["nav"] if isinstance(part, dict) and "Reference" in part)
    names = list(passes())
    reference[-1] = {"Passes": [{name: f"reference/passes/{name}.md"} for name in names]}
    return config


def passes() -> dict[str, str]:
    """Return a page for every pass: what its docstrings say, its options, what it needs and gives."""
    from moe_passes.ir.registry import load_pass, pass_names

    return {
        name: _pass(name, load_pass(name))
        for name in pass_names()
        if load_pass(name).__module__.startswith("moe_passes")
    }


def _pass(name: str, kind: Any) -> str:
    module = inspect.getdoc(import_module(kind.__module__)) or ""
    says = module.partition(": ")[2] or module
    lines = [f"# {name}", "", inspect.getdoc(kind) or "", "", says[:1].upper() + says[1:], ""]
    for title, states in (("Needs", kind.needs), ("Gives", kind.gives), ("Makes open again", kind.drops)):
        if states:
            lines += [f"**{title}:** {'; '.join(state.what for state in states)}.", ""]
    options = kind.options()
    if options:
        lines += ["| option | values | |", "|---|---|---|"]
        lines += [f"| `{option.name}` | {_cell(option.values)} | {_cell(option.help)} |" for option in options]
    run = inspect.getdoc(kind.run) or ""
    return "\n".join([*lines, "", "## What it does to a module", "", *_sections(run)]) + "\n"


def _sections(text: str) -> Iterator[str]:
    """Turn a docstring with `Raises:` into Markdown."""
    for line in text.splitlines():
        if re.fullmatch(r"[A-Z]\w+:", line):
            yield f"**{line[:-1]}**"
            yield ""
        elif line.startswith("    ") and ": " in line:
            name, _, says = line.strip().partition(": ")
            yield f"- `{name}`: {says}"
        else:
            yield line.strip()


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


FORMATS = (
    ("plan.json", "moe_compiler.documents.plan", "PlanDocument"),
    ("cost.json", "moe_compiler.documents.cost", "CostDocument"),
    ("held_out.json", "moe_compiler.documents.held_out", "HeldOutDocument"),
    ("compile.json", "moe_compiler.documents.record", "CompileDocument"),
    ("measured.json", "moe_compiler.documents.measured", "MeasuredDocument"),
    ("moec run --json", "moe_compiler.documents.run", "RunDocument"),
    ("moec estimate --json", "moe_compiler.documents.estimate", "EstimateDocument"),
    ("moec explain --json", "moe_compiler.documents.explanation", "ExplanationDocument"),
    ("moec diff --json", "moe_compiler.documents.diff", "DiffDocument"),
    ("moec partition -o", "moe_compiler.documents.placement", "PlacementDocument"),
    ("hardware files, schema 2", "moe_compiler.hardware.schema_2", "TieredTarget"),
)
"""What a user reads or writes, and its pydantic model."""


def formats() -> str:
    """Return a page of all documents: every model with its fields, their types and what it says of itself."""
    lines = [
        "# File formats",
        "",
        "Made from the models that write and read them; `moec schema NAME` prints JSON Schema.",
        "",
    ]
    for title, module, name in FORMATS:
        lines += [f"## {title}", ""]
        for model in _models(getattr(import_module(module), name)):
            lines += [
                f"### {model.__name__} of {title}",
                "",
                inspect.getdoc(model) or "",
                "",
                "| key | type |",
                "|---|---|",
            ]
            lines += [
                f"| `{field.alias or key}` | `{_type(field.annotation)}` |" for key, field in model.model_fields.items()
            ]
            lines.append("")
    return "\n".join(lines)


def _models(top: type[BaseModel]) -> list[type[BaseModel]]:
    """Return a model and those that its fields are of, each once."""
    found: list[type[BaseModel]] = []
    waiting: list[Any] = [top]
    while waiting:
        model = waiting.pop(0)
        if isinstance(model, type) and issubclass(model, BaseModel):
            if model not in found:
                found.append(model)
                waiting += [field.annotation for field in model.model_fields.values()]
        else:
            waiting += list(getattr(model, "__args__", ()))
    return found


def _type(annotation: Any) -> str:
    text = (
        annotation.__name__
        if isinstance(annotation, type) and not getattr(annotation, "__args__", ())
        else str(annotation)
    )
    text = re.sub(r"typing\.|moe_compiler\.[\w.]*\.|<class '(?:\w+\.)*(\w+)'>", r"\1", text)
    text = re.sub(r"Annotated\[([^,\[\]]+(?:\[[^\]]*\])?),.*?\]", r"\1", text)
    return text.replace("NoneType", "None").replace("|", "or")


def dialects() -> str:
    """Return a page of what the dialects declare."""
    from moe_passes.ir.dialects import irdl

    text = "\n".join(f"    {line}" for line in irdl().splitlines())
    says = "What `moec dialect --irdl` prints: operations, attributes and types, as other tools of MLIR read them."
    return f"# Dialects\n\n{says}\n\n{text}\n"


def commands() -> str:
    """Return a page of every command's help."""
    from moe_compiler.cli.commands import COMMANDS, cli

    lines = ["# Commands", "", "What `moec COMMAND --help` prints.", ""]
    context = click.Context(cli, info_name="moec", terminal_width=92, max_content_width=92)
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        lines += _command(command, click.Context(command, info_name=name, parent=context))
    return "\n".join(lines)


def _command(command: click.Command, context: click.Context) -> list[str]:
    text = command.get_help(context)
    lines = [f"## {context.command_path}", "", *(f"    {line}" for line in text.splitlines()), ""]
    for name, inner in getattr(command, "commands", {}).items():
        lines += _command(inner, click.Context(inner, info_name=name, parent=context))
    return lines
