"""A compiler for mixture-of-experts speculative decoding on memory-bound machines.

import moe_compiler
c = moe_compiler.compile("qwen3-30b-a3b", "elmoe3d-8gb")
c.cost["token"]["seconds"], c.module, c.plan
c.save("out")
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moe_passes.plan.errors import InfeasibleError, InputError

    from moe_compiler.api import Compilation, compile

__version__ = "0.1.0"
__all__ = ["Compilation", "InfeasibleError", "InputError", "compile"]

_WHERE = {
    "compile": "moe_compiler.api",
    "Compilation": "moe_compiler.api",
    "InputError": "moe_passes.plan.errors",
    "InfeasibleError": "moe_passes.plan.errors",
}


def __getattr__(name: str) -> Any:
    """Load what is asked for, and what it needs only with it: an emitted program needs `moe_compiler.runtime` alone."""
    if name not in _WHERE:
        raise AttributeError(f"module 'moe_compiler' has no attribute '{name}'")
    return getattr(import_module(_WHERE[name]), name)
