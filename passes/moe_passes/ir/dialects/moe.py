"""The operations of the `moe` dialect, in the module that MLIR looks for by the dialect's name."""

from moe_passes.ir.dialects.machine import *  # noqa: F403
from moe_passes.ir.dialects.model import *  # noqa: F403
from moe_passes.ir.dialects.request import *  # noqa: F403
