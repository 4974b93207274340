"""A compiler for mixture-of-experts speculative decoding on memory-bound machines.

import moe_compiler
c = moe_compiler.compile("qwen3-30b-a3b", "elmoe3d-8gb")
c.cost["token"]["seconds"], c.module, c.plan
c.save("out")
"""

from typing import TYPE_CHECKING, Any

from moe_passes.errors import InfeasibleError, InputError

if TYPE_CHECKING:
    from moe_compiler.driver import Compilation, compile

__version__ = "0.1.0"
__all__ = ["Compilation", "InfeasibleError", "InputError", "compile"]


def __getattr__(name: str) -> Any:
    """Load the driver, and with it torch and MLIR, only when it is asked for."""
    if name in ("compile", "Compilation"):
        from moe_compiler import driver

        return getattr(driver, name)
    raise AttributeError(f"module 'moe_compiler' has no attribute '{name}'")
