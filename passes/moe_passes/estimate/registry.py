"""Cost models by name: `analytic`, and what other packages register in the group `moe_passes.cost_models`."""

from moe_passes.estimate.cost import CostModel
from moe_passes.plan import plugins
from moe_passes.plan.machine import Machine

GROUP = "moe_passes.cost_models"
BUILT_IN = {"analytic": "moe_passes.estimate.analytic:AnalyticCost"}


def cost_model_names() -> list[str]:
    """Return the registered names."""
    return plugins.names(GROUP, BUILT_IN)


def check_cost_model(name: str) -> None:
    """Refuse a name that is not registered, before minutes of work.

    Raises:
        InputError: it is not.
    """
    plugins.load(GROUP, BUILT_IN, name, "cost model")


def cost_model(name: str, machine: Machine) -> CostModel:
    """Make the cost model of a machine.

    Raises:
        InputError: unknown name.
    """
    model: CostModel = plugins.load(GROUP, BUILT_IN, name, "cost model")(machine)
    return model
