"""Where passes that run without a compiler around them get the routing trace that a module names.

moe-passes reads no files: a package that does registers a reader in the group `moe_passes.trace_sources`, a function of
the module and of the file that is given for its trace (or None). moe-compiler registers its own.
"""

from typing import Any

from moe_passes.plan import plugins
from moe_passes.plan.errors import InputError
from moe_passes.routing.traces import RoutingTrace

GROUP = "moe_passes.trace_sources"


def read(module: Any, given: str | None) -> RoutingTrace:
    """Return the trace that a module names, or the file that is given for it.

    Raises:
        InputError: no package that reads traces is installed, or the trace cannot be read.
    """
    names = plugins.names(GROUP, {})
    if not names:
        raise InputError("a pass needs the routing trace, and nothing here reads one; valid: install moe-compiler")
    trace: RoutingTrace = plugins.load(GROUP, {}, names[0], "trace source")(module, given)
    return trace
