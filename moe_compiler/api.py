"""What the command line and notebooks call: one function for each use, values in, values out."""

from moe_compiler.compilation import Compilation, compile
from moe_compiler.placement import PlacementRequest
from moe_compiler.placement import partition as place

__all__ = ["Compilation", "PlacementRequest", "compile", "place"]
