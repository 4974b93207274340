"""Decoder layers that are alike: one of each kind is traced, and stands for the others.

A model is traced in a time that grows with its layers, of which most are alike. So every layer that is like an earlier
one is replaced by a module that passes its input on, and the module that is traced says which layer stands for which;
raise-moe puts the raised layers back. Two layers are alike if their modules are: the same classes and parameters, and
the same settings, the layer's number aside.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

NUMBERS = ("layer_idx", "layer_id", "layer_number", "kv_shared_layer_index")
"""Settings of a module that say which layer it is in."""
MOST_SETTINGS = 16
"""Elements of a setting that is a sequence; longer ones are of the model, not of a layer."""

Layers = tuple[str, nn.ModuleList]


def decoder_layers(model: nn.Module) -> Layers | None:
    """Return the name and the list of decoder layers: the list of modules with the most parameters."""
    lists = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    outer = [(name, module) for name, module in lists if not any(name.startswith(f"{n}.") for n, _ in lists)]
    return max(outer, key=lambda entry: sum(p.numel() for p in entry[1].parameters()), default=None)


def representatives(layers: nn.ModuleList, config: Any) -> tuple[int, ...]:
    """Return, for each layer, the first that it is like."""
    first: dict[Any, int] = {}
    return tuple(first.setdefault(_kind(layer, config, n, len(layers)), n) for n, layer in enumerate(layers))


def _kind(layer: nn.Module, config: Any, number: int, count: int) -> Any:
    modules = tuple((name, type(module), _settings(module)) for name, module in layer.named_modules())
    parameters = tuple((name, tuple(p.shape), p.dtype) for name, p in layer.named_parameters())
    lists = ((k, v) for k, v in sorted(vars(config).items()) if isinstance(v, list | tuple) and len(v) == count)
    return modules, parameters, tuple((name, repr(values[number])) for name, values in lists if not _is_numbers(values))


def _is_numbers(values: Any) -> bool:
    """Say whether a list is one of layers, not one with an entry for each layer."""
    return all(isinstance(v, int) for v in values) and list(values) == sorted(set(values))


def _settings(module: nn.Module) -> tuple[tuple[str, str], ...]:
    """Return what a module was made with, as text."""
    return tuple(
        (name, repr(value))
        for name, value in sorted(vars(module).items())
        if name not in NUMBERS and not name.startswith("_") and _is_plain(value)
    )


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return len(value) <= MOST_SETTINGS and all(_is_plain(item) for item in value)
    return value is None or isinstance(value, bool | int | float | str)


@dataclass
class Answer:
    """What a traced layer returned last; not a list, which torch.export would put back as it was before."""

    last: Any = None


class Alike(nn.Module):
    """Stands where a layer is like an earlier one: passes its input on, in the form in which that layer answers."""

    def __init__(self, layer: nn.Module, answer: Answer) -> None:
        super().__init__()
        self.answer = answer
        for name, value in vars(layer).items():
            if not name.startswith("_") and name not in vars(self):
                object.__setattr__(self, name, value)

    def forward(self, hidden_states: Tensor, *args: Any, **options: Any) -> Any:
        """Return the hidden states as they came, followed by what the layer stood for returned beside them."""
        answer = self.answer.last
        return (hidden_states, *answer[1:]) if isinstance(answer, tuple) else hidden_states


@contextlib.contextmanager
def one_of_each(layers: nn.ModuleList, like: tuple[int, ...]) -> Iterator[None]:
    """Let one layer of each kind stand for the others while a model is traced."""
    original = list(layers)
    answers = {number: Answer() for number in set(like)}
    try:
        for number, first in enumerate(like):
            if number == first:
                original[number].forward = _recording(original[number].forward, answers[number])
            else:
                layers[number] = Alike(original[number], answers[first])
        yield
    finally:
        for number, layer in enumerate(original):
            vars(layer).pop("forward", None)
            layers[number] = layer


def _recording(forward: Callable[..., Any], answer: Answer) -> Callable[..., Any]:
    """Keep what a layer answers; a hook would not do, as torch.export runs modules without."""

    def recorded(*args: Any, **options: Any) -> Any:
        answer.last = forward(*args, **options)
        return answer.last

    return recorded
