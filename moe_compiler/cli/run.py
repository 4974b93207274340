"""`moec run`."""

import json
import sys
from pathlib import Path
from typing import Any

import click
from moe_passes.plan.errors import InputError

from moe_compiler.cli.codes import EXIT_FAILED
from moe_compiler.cli.progress import progress

EXAMPLES = """
\b
Examples:
  moec run out --weights my-model.store --prompt "def main():" --max-new-tokens 64
  moec run out --weights my-model.store --prompt-file question.txt --max-new-tokens 200 --check
  moec run out --weights my-model.store --chat --max-new-tokens 200 --sample --temperature 0.7 --top-p 0.9
  moec run out --weights my-model.store --prompt a --prompt b --max-new-tokens 32 --far-bandwidth 0.5 --json
  moec run out --weights my-model.store --prompt "def main():" --max-new-tokens 64 --device cuda

\b
DIR is what `moec compile -o DIR` wrote, the store what `moec pack` wrote of the same model. Greedy text is, token for
token, that of the INT8 model decoded one token at a time; --check decodes it so as well and compares (exit 5 where it
differs). A prompt for each sequence of the compiled batch, at most.
"""


@click.command("run", epilog=EXAMPLES)
@click.argument("folder", metavar="DIR")
@click.option("--weights", required=True, help="Store of the model's weights (`moec pack`).")
@click.option("--prompt", "prompts", multiple=True, help="Text to go on with; repeatable.")
@click.option("--prompt-file", "files", multiple=True, help="File with such a text; repeatable.")
@click.option("--chat", is_flag=True, help="Answer line by line what comes from stdin.")
@click.option("--max-new-tokens", type=int, required=True, help="New tokens of each sequence, at most.")
@click.option("--sample", is_flag=True, help="Draw tokens instead of taking the likeliest.")
@click.option("--temperature", type=float, default=1.0, show_default=True, help="With --sample.")
@click.option("--top-p", type=float, default=1.0, show_default=True, help="With --sample.")
@click.option("--seed", type=int, default=0, show_default=True, help="With --sample.")
@click.option("--check", is_flag=True, help="Decode one token at a time as well, and compare; exit 5 if different.")
@click.option(
    "--activation-bits",
    type=int,
    default=32,
    show_default=True,
    metavar="[32|8]",
    help="Of what weights are multiplied with: float32, or rounded to 8 bits; --check goes by the same.",
)
@click.option("--far-bandwidth", type=float, metavar="GB_S", help="Hold loads of experts to so much (emulated).")
@click.option(
    "--device",
    type=click.Choice(["cpu", "cuda"]),
    default="cpu",
    show_default=True,
    help="cpu: experts are read from the store as they are needed; cuda: copied from pinned memory, which has all.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document, and no text.")
def run_command(
    folder: str,
    weights: str,
    prompts: tuple[str, ...],
    files: tuple[str, ...],
    chat: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Generate text with the schedule in DIR."""
    texts = [*prompts, *(_read(name) for name in files)]
    if chat == bool(texts):
        raise InputError("what to go on with? valid: --prompt TEXT, --prompt-file FILE, or --chat")
    if chat and as_json:
        raise InputError("--chat with --json; valid: one of them")
    from moe_compiler.generation import Asked, CheckFailedError, Runner

    asked = Asked(
        options["max_new_tokens"],
        options["temperature"] if options["sample"] else None,
        options["top_p"],
        options["seed"],
        options["check"],
        options["far_bandwidth"],
        options["activation_bits"],
    )
    asked.check_values()
    with progress(f"open {weights}"):
        runner = Runner.open(folder, weights, asked.far_bandwidth_gb_s, options["device"])
    try:
        if chat:
            _chat(runner, asked)
            return
        found = runner.run(texts, asked, None if as_json or len(texts) > 1 else _stream)
    except CheckFailedError as error:
        print(f"moec: check failed: {error}", file=sys.stderr)
        sys.exit(EXIT_FAILED)
    if as_json:
        click.echo(json.dumps(found, indent=1, allow_nan=False))
    else:
        _summary(found)


def _read(name: str) -> str:
    from moe_compiler.generation import LARGEST_PROMPT
    from moe_compiler.paths import read_text

    try:
        return read_text(Path(name), LARGEST_PROMPT)
    except (OSError, ValueError) as error:
        raise InputError(f"--prompt-file {name}: cannot be read: {error}") from None


def _stream(number: int, text: str) -> None:
    """Write text as it comes."""
    click.echo(text, nl=False)
    sys.stdout.flush()


def _summary(found: dict[str, Any]) -> None:
    sequences = found["sequences"]
    if len(sequences) == 1:
        click.echo()
    else:
        for number, sequence in enumerate(sequences, 1):
            click.echo(f"--- {number}: {sequence['prompt'][:60]!r}\n{sequence['text']}")
    rate = "" if found["acceptance_rate"] is None else f", {found['acceptance_rate']:.0%} of drafted tokens accepted"
    share = found["hidden_load_seconds"] / found["load_seconds"] if found["load_seconds"] else 0.0
    hidden = f", {share:.0%} of its time hidden" if found["load_seconds"] else ""
    emulated = f", at {found['far_bandwidth_gb_s']:g} GB/s (emulated)" if found["is_emulated"] else ""
    click.echo(
        f"{found['tokens_per_second']:.1f} tokens/s, γ = {found['draft_length']}, {found['rounds']} rounds{rate}; "
        f"{found['bytes_loaded'] / 1e6:.1f} MB loaded by {found['far']}{emulated}{hidden}; "
        f"peak {found['peak_bytes'] / 1e6:.0f} MB"
        + ("; check: equal" if found["check"] else "")
        + ("" if found["measured"] else "; measured.json could not be written"),
        err=True,
    )


def _chat(runner: Any, asked: Any) -> None:
    """Answer line by line, each answer with all that was said before it."""
    runner.check_chat()
    said: list[dict[str, str]] = []
    for line in sys.stdin.buffer:
        said.append({"role": "user", "content": line.decode("utf-8", "replace").rstrip("\n")})
        said.append({"role": "assistant", "content": runner.answer(said, asked, _stream)})
        click.echo()
