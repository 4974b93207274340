"""`moec explain`: the questions that were asked about a compile, or all that it answers by itself."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from moe_compiler.documents.explanation import Explanation, ExplanationDocument
from moe_compiler.documents.folder import CompiledFolder, read_folder
from moe_compiler.explanation.bound import explain_bound
from moe_compiler.explanation.draft import explain_draft
from moe_compiler.explanation.energy import explain_energy
from moe_compiler.explanation.expert import explain_expert, parse_expert
from moe_compiler.explanation.passes import explain_pass
from moe_compiler.explanation.rounds import explain_trust, explain_wasted
from moe_compiler.explanation.task import explain_round, explain_task

OVERVIEW: tuple[Callable[[CompiledFolder], Explanation], ...] = (
    explain_draft,
    explain_bound,
    explain_round,
    explain_wasted,
    explain_energy,
    explain_trust,
)
"""What a compile answers unasked."""


def explain(
    folder: str | Path,
    *,
    expert: str | None = None,
    task: int | None = None,
    pass_name: str | None = None,
    why_not: str | None = None,
    bound: bool = False,
    progress: Callable[[str], None] = lambda message: None,
) -> dict[str, Any]:
    """Answer questions about a compile; all that need no more to be said where none is asked.

    Args:
        folder: what `moec compile -o` wrote.
        expert: LAYER.EXPERT: where it is and why.
        task: of the scheduled round: what delays it, its slack, what runs meanwhile.
        pass_name: what a pass decided, and the IR around it.
        why_not: PATH=VALUE: compiles the alternative, and says what it costs and where.
        bound: why it cannot be faster, and which knob moves it.
        progress: told what is being compiled.

    Raises:
        InputError: no compile of ours, or nothing in it is called so.
    """
    of = read_folder(Path(folder))
    answers = [*_asked(of, expert, task, pass_name, bound)]
    if why_not is not None:
        from moe_compiler.explanation.alternative import explain_alternative

        answers.append(explain_alternative(of, why_not, progress))
    answers = answers or overview(of)
    return ExplanationDocument(model=of.plan.model, target=of.plan.target, answers=answers).content()


def overview(of: CompiledFolder) -> list[Explanation]:
    """Answer what needs no more to be said."""
    return [answer(of) for answer in OVERVIEW]


def _asked(
    of: CompiledFolder, expert: str | None, task: int | None, pass_name: str | None, bound: bool
) -> Iterator[Explanation]:
    if expert is not None:
        yield explain_expert(of, *parse_expert(expert))
    if task is not None:
        yield explain_task(of, task)
    if pass_name is not None:
        yield explain_pass(of, pass_name)
    if bound:
        yield explain_bound(of)
