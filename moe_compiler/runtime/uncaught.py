"""Functions of ours that a model's caught code calls: their own tensor operations need not be caught as well."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


def uncaught(function: Callable[P, R]) -> Callable[P, R]:
    """Run a function outside torch-function modes: what looks at every operation costs more than a small one."""

    @functools.wraps(function)
    def run(*args: P.args, **options: P.kwargs) -> R:
        with torch._C.DisableTorchFunction():
            return function(*args, **options)

    return run
