"""`torch.compile(model, backend="moe_compiler")`: our passes on what Dynamo captured; the result computes the same.

    options = {"target": "elmoe3d-8gb", "output": "out"}
    torch.compile(model, backend="moe_compiler", options=options)

The first captured graph that holds a whole MoE model is compiled: `output` is a folder for plan, IR, cost and timeline
(as of `moec compile`, without a program: a graph has no configuration that one could build a model from), `hear` a
function that is given the `Compilation`. Every other option is one of `moe_compiler.compile`. What is computed does not
change: every graph runs as `inner` compiles it, by default as it is.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moe_passes.plan.errors import InputError
from torch import fx

LOG = logging.getLogger(__name__)
DEFAULT_TARGET = "elmoe3d-8gb"
COMPILED = (
    "format", "place", "profile", "context", "draft_length", "pipeline", "overrides", "alpha", "accepted_lengths",
    "prompt_tokens", "seed", "time_limit", "cost_model",
)  # fmt: skip
"""Options that are passed on to `moe_compiler.compile`; the batch is that of the captured graph."""

Graph = Callable[..., Any]


@dataclass(frozen=True)
class Options:
    """What `options=` holds.

    Attributes:
        target: hardware file.
        output: folder to write; None for none.
        hear: given the compilation; None: nobody is.
        inner: name of the backend that runs the graph; None: as it was captured.
        name: of the model, in outputs.
        compiled: options of `moe_compiler.compile`.
    """

    target: str | Path = DEFAULT_TARGET
    output: str | Path | None = None
    hear: Callable[[Any], None] | None = None
    inner: str | None = None
    name: str = "captured"
    compiled: Mapping[str, Any] = field(default_factory=dict)


def backend(module: fx.GraphModule, inputs: Sequence[Any], options: Mapping[str, Any] | None = None) -> Graph:
    """Be the backend: plan for a captured graph, and return what computes it.

    Raises:
        InputError: an option is none, or the graph cannot be compiled for the target.
    """
    given = parse(options or {})
    _plan(module, given)
    if given.inner is None:
        return module.forward
    from torch._dynamo import lookup_backend

    compiled: Graph = lookup_backend(given.inner)(module, list(inputs))
    return compiled


def parse(options: Mapping[str, Any]) -> Options:
    """Read the options.

    Raises:
        InputError: there is none of such a name.
    """
    own = ("target", "output", "hear", "inner", "name")
    unknown = [name for name in options if name not in (*own, *COMPILED)]
    if unknown:
        from moe_passes.plan.names import nearest

        raise InputError(f"torch.compile: option '{unknown[0]}'{nearest(unknown[0], [*own, *COMPILED])}")
    return Options(
        **{name: options[name] for name in own if name in options},
        compiled={name: value for name, value in options.items() if name in COMPILED},
    )


_PLANNED: set[tuple[Any, ...]] = set()
"""What this process has planned for: a model is captured anew for other shapes, and planned for once."""


def _plan(module: fx.GraphModule, given: Options) -> None:
    from moe_compiler.frontend.captured import capture

    captured = capture(module)
    if captured is None:
        LOG.info("a graph without an embedding or stacks of expert weights: it runs as it was captured")
        return
    where = None if given.output is None else str(Path(given.output).absolute())
    asked = (where, given.hear, given.name, str(given.target), repr(sorted(given.compiled.items())), captured.shape)
    if asked in _PLANNED:
        return
    from moe_compiler.backend.folder import check_free
    from moe_compiler.compilation import compile
    from moe_compiler.frontend.models import ModelSource

    if where is not None:
        check_free(Path(where))

    notes = ("captured by torch.compile: the cache holds what attention takes, over the whole context",)
    source = ModelSource(given.name, {}, notes, captured=captured)
    found = compile(source, given.target, batch=captured.batch, **given.compiled)
    if given.output is not None:
        found.save(given.output)
    if given.hear is not None:
        given.hear(found)
    _PLANNED.add(asked)
    LOG.info("%s for %s: %.4g ms a token", given.name, given.target, found.cost["token"]["seconds"] * 1e3)
