"""What is registered under a name: ours, loaded when asked for, and what other packages bring by entry point."""

import sys
from collections.abc import Mapping
from functools import lru_cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from moe_passes.plan.errors import InputError
from moe_passes.plan.names import nearest


def names(group: str, built_in: Mapping[str, str]) -> list[str]:
    """Return all names of a group, ours first."""
    return [*built_in, *sorted({point.name for point in _registered(group)} - set(built_in))]


def _registered(group: str) -> tuple[EntryPoint, ...]:
    return _registered_on(tuple(sys.path), group)


@lru_cache(maxsize=8)
def _registered_on(path: tuple[str, ...], group: str) -> tuple[EntryPoint, ...]:
    """Read the metadata of all packages on a path: 15 ms that a compile would spend thirty times."""
    return tuple(entry_points(group=group))


def load(group: str, built_in: Mapping[str, str], name: str, what: str) -> Any:
    """Load what is registered under a name.

    Args:
        group: the entry-point group that other packages register in.
        built_in: `module:attribute` by name.
        name: what to load.
        what: how messages call it.

    Raises:
        InputError: an unknown name, one that two packages register, or one that cannot be imported.
    """
    found = [point for point in _registered(group) if point.name == name]
    if len(found) + (name in built_in) > 1:
        sources = sorted({point.value for point in found} | ({built_in[name]} if name in built_in else set()))
        raise InputError(f"{what} '{name}' is registered more than once ({', '.join(sources)}); valid: one of a name")
    if name in built_in:
        module, _, attribute = built_in[name].partition(":")
        return getattr(import_module(module), attribute)
    if not found:
        raise InputError(f"unknown {what} '{name}'{nearest(name, names(group, built_in))}")
    try:
        return found[0].load()
    except Exception as error:
        raise InputError(f"{what} '{name}' ({found[0].value}) cannot be loaded: {error}") from None
