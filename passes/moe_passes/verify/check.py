"""The independent checker of a whole plan. It shares no code with the passes that made the plan, and trusts nothing.

Tasks, dependencies, durations and demands are derived anew from the two phases, the decisions and the machine; only
what primitive pieces of work take is asked of the cost model.
"""

from moe_passes.verify import memory, phases, routing, schedule, steady, tasks
from moe_passes.verify.plan import Plan


def violations(plan: Plan) -> list[str]:
    """Return everything that is wrong with a plan; empty if it is valid.

    Later checks rest on what earlier ones have found right, so the first group with findings ends it.
    """
    checks = (phases.violations, memory.violations, routing.violations, tasks.violations, schedule.violations)
    for check in (*checks, steady.violations):
        wrong = check(plan)
        if wrong:
            return wrong
    return _dispatch(plan)


def _dispatch(plan: Plan) -> list[str]:
    """The dispatcher's tables are there where something can be loaded ahead, and say nothing where it cannot."""
    ahead = bool(plan.draft.staging_bytes and plan.draft.length)
    never = 1001
    if plan.dispatch.late == "stream" and not plan.prices.rates().streams:
        return ["the dispatcher's plan lets experts stream past the elements, which cannot compute so; valid: load"]
    thresholds = (plan.dispatch.sure_permille, plan.dispatch.least_permille)
    if not ahead and thresholds != (never, never):
        return [f"the dispatcher's plan loads ahead ({thresholds}), and nothing can be; valid: {never}, {never}"]
    count = 1
    for classes in plan.dispatch.likelihoods.shape:
        count *= classes
    if len(plan.dispatch.likelihoods.permille) != count:
        return [f"the dispatcher has {len(plan.dispatch.likelihoods.permille)} likelihoods for {count} classes"]
    return []
