"""What the command line and notebooks call: one function for each use, values in, values out.

Each is loaded when it is asked for, so that one use does not wait for what another needs.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moe_compiler.allocation import allocate
    from moe_compiler.calibration import calibrate
    from moe_compiler.comparison import compare
    from moe_compiler.compilation import Compilation, compile
    from moe_compiler.estimation import estimate
    from moe_compiler.explanation.answers import explain
    from moe_compiler.importing import import_profile
    from moe_compiler.placement import PlacementRequest, place
    from moe_compiler.profiling import profile
    from moe_compiler.report.page import report
    from moe_compiler.scheduling import schedule
    from moe_compiler.showing import show, show_ir
    from moe_compiler.storing import pack, unpack

__all__ = [
    "Compilation",
    "PlacementRequest",
    "allocate",
    "calibrate",
    "compare",
    "compile",
    "estimate",
    "explain",
    "import_profile",
    "pack",
    "place",
    "profile",
    "report",
    "schedule",
    "show",
    "show_ir",
    "unpack",
]

_WHERE = {
    "Compilation": "compilation",
    "PlacementRequest": "placement",
    "allocate": "allocation",
    "calibrate": "calibration",
    "compare": "comparison",
    "compile": "compilation",
    "estimate": "estimation",
    "explain": "explanation.answers",
    "import_profile": "importing",
    "pack": "storing",
    "place": "placement",
    "profile": "profiling",
    "report": "report.page",
    "schedule": "scheduling",
    "show": "showing",
    "show_ir": "showing",
    "unpack": "storing",
}


def __getattr__(name: str) -> Any:
    """Load what is asked for."""
    if name not in _WHERE:
        raise AttributeError(f"module 'moe_compiler.api' has no attribute '{name}'")
    return getattr(import_module(f"moe_compiler.{_WHERE[name]}"), name)
