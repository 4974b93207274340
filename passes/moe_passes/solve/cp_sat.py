"""One way to run CP-SAT: an interrupt stops it at once, and is the caller's, not a limit of the search."""

from concurrent.futures import ThreadPoolExecutor, wait

from ortools.sat.python import cp_model

POLL_SECONDS = 0.05


def run(solver: cp_model.CpSolver, model: cp_model.CpModel) -> int:
    """Solve a model with a solver whose parameters are set; returns CP-SAT's status.

    By default CP-SAT takes SIGINT for a limit, goes on with what it has, and leaves the default handler behind, which
    ends a process without a word. Here it searches in a thread of its own, so that the interrupt reaches this one.

    Raises:
        KeyboardInterrupt: if one came; the search has ended by then.
    """
    solver.parameters.catch_sigint_signal = False
    with ThreadPoolExecutor(max_workers=1) as pool:
        search = pool.submit(solver.solve, model)
        try:
            wait([search])
        except BaseException:
            # Until the search has begun, there is nothing to be stopped.
            while not search.done():
                solver.stop_search()
                wait([search], timeout=POLL_SECONDS)
            raise
        return int(search.result())
