"""Mutants: what the tests of a folder must notice. `make mutate` runs all, CI runs those that are marked fast.

A mutant makes one function return something else at once (`returns`), or replaces one piece of text that occurs exactly
once (`old`, `new`). It is caught if a test of its own folder fails.
"""

import ast
from dataclasses import dataclass

SOLVE = "passes/moe_passes/solve"


@dataclass(frozen=True)
class Mutant:
    """A change that makes one thing a no-op or wrong.

    Attributes:
        name: what is lost.
        file: where, from the top of the repository.
        tests: the folder, or the files in it, whose tests must notice.
        function: that returns at once; empty for a change of text.
        returns: the expression that it returns.
        old: text that occurs exactly once.
        new: what stands there instead.
        fast: whether CI runs it.
    """

    name: str
    file: str
    tests: str
    function: str = ""
    returns: str = "None"
    old: str = ""
    new: str = ""
    fast: bool = False


def noop(name: str, file: str, tests: str, function: str, returns: str = "None", fast: bool = False) -> Mutant:
    """Make a function return at once."""
    return Mutant(name, file, tests, function, returns, fast=fast)


def wrong(name: str, file: str, tests: str, old: str, new: str, fast: bool = False) -> Mutant:
    """Replace a piece of text."""
    return Mutant(name, file, tests, old=old, new=new, fast=fast)


def mutated(mutant: Mutant, text: str) -> str:
    """Return the text of a file with the mutant in it.

    Raises:
        ValueError: what it changes is not there, or not once.
    """
    if not mutant.function:
        if text.count(mutant.old) != 1:
            raise ValueError(f"{mutant.name}: its text stands {text.count(mutant.old)} times in {mutant.file}")
        return text.replace(mutant.old, mutant.new)
    functions = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef) and n.name == mutant.function]
    found = [n for n in functions if n.col_offset == 0] or functions
    if len(found) != 1:
        raise ValueError(f"{mutant.name}: {len(found)} functions {mutant.function} in {mutant.file}")
    lines = text.splitlines(keepends=True)
    first = found[0].body[0]
    lines.insert(first.lineno - 1, " " * first.col_offset + f"return {mutant.returns}\n")
    return "".join(lines)


RCPSP, PLACEMENT, DRAFT = "tests/passes/solve/rcpsp", "tests/passes/solve/placement", "tests/passes/solve/draft"
SCHEDULE_STAGES, PLACEMENT_STAGES = f"{RCPSP}/test_stages.py", f"{PLACEMENT}/test_stages.py"
PLACEMENT_SHARED, PLACEMENT_TRIAL = f"{PLACEMENT}/test_concentrate.py", f"{PLACEMENT}/test_trial.py"
ALLOCATION, DISPATCH = "tests/passes/solve/allocation", "tests/passes/solve/dispatch"
ESTIMATE, TASKS, ROUTING = "tests/passes/estimate", "tests/passes/tasks", "tests/passes/routing"
RESIDENCY = "tests/passes/solve/residency"

MUTANTS = (
    # Scheduling: every stage of the search, every bound.
    noop("windows gain nothing", f"{SOLVE}/rcpsp/windows.py", SCHEDULE_STAGES, "improve", "schedule", fast=True),
    noop("neighbourhoods gain nothing", f"{SOLVE}/rcpsp/neighbourhoods.py", SCHEDULE_STAGES, "improve", "schedule", fast=True),
    noop("justification gains nothing", f"{SOLVE}/rcpsp/justification.py", SCHEDULE_STAGES, "improve", "schedule", fast=True),
    noop("plain CP-SAT is not asked", f"{SOLVE}/rcpsp/exact.py", SCHEDULE_STAGES, "search", '"feasible", best, bound', fast=True),
    noop("nothing is justified before the long searches", f"{SOLVE}/rcpsp/solver.py", SCHEDULE_STAGES, "_start", "best", fast=True),
    wrong("windows asks no windows", f"{SOLVE}/rcpsp/solver.py", SCHEDULE_STAGES, "    best = windows.improve(problem, best, bound, _share(budget, 1 - JUSTIFICATION_SHARE))\n", "", fast=True),
    wrong("windows keep what is not legal", f"{SOLVE}/rcpsp/windows.py", f"{RCPSP}/test_rich.py", "return best if violations(problem, rebuilt) else rebuilt", "return rebuilt", fast=True),
    wrong("no second opinion is asked", f"{SOLVE}/rcpsp/solver.py", f"{RCPSP}/test_rich.py", "return _second_opinion(problem, answer, bound, budget) if status == \"optimal\" else answer", "return answer", fast=True),
    noop("the second formulation never disagrees", f"{SOLVE}/rcpsp/pairwise.py", f"{RCPSP}/test_rich.py", "search", '"none", None', fast=True),
    wrong("the second formulation knows no capacities", f"{SOLVE}/rcpsp/pairwise.py", f"{RCPSP}/test_rich.py", "            self._limit(problem.capacities[resource], uses)\n", "            pass\n", fast=True),
    wrong("deadlines do not come in units", f"{SOLVE}/rcpsp/problem.py", f"{RCPSP}/test_rich.py", "deadline=None if task.deadline is None else task.deadline // unit", "deadline=task.deadline", fast=True),
    wrong("mixed asks no neighbourhoods", f"{SOLVE}/rcpsp/solver.py", SCHEDULE_STAGES, "    best = neighbourhoods.improve(problem, best, bound, rest)\n", "", fast=True),
    wrong("exact is a glance", f"{SOLVE}/rcpsp/solver.py", SCHEDULE_STAGES, "return exact.search(problem, best, bound, _share(budget, 1 - GLANCE_SHARE - JUSTIFICATION_SHARE))", "return status, best, bound", fast=True),
    noop("no conflict is named", f"{SOLVE}/rcpsp/exact.py", RCPSP, "conflict", "(), True"),
    noop("the bound is 0", f"{SOLVE}/rcpsp/bound.py", RCPSP, "lower_bound", "0"),
    wrong("no preemptive bound", f"{SOLVE}/rcpsp/bound.py", RCPSP, "        found.append(Bound(_preemptive(heads[m], durations[m], tails[m]), MACHINE, resource))\n", ""),
    wrong("no pool of resources bounds", f"{SOLVE}/rcpsp/bound.py", RCPSP, "return alone + [tuple(pool) for pool in alike.values() if len(pool) > 1]", "return alone"),
    wrong("what streams past outruns its resident part", "passes/moe_passes/tasks/modes.py", "tests/passes/verify", "seconds = max(self.cost.stream_seconds(work.missing_bytes), least_seconds, read, computed)", "seconds = max(self.cost.stream_seconds(work.missing_bytes), least_seconds, computed)", fast=True),
    noop("no energy bound", f"{SOLVE}/rcpsp/bound.py", RCPSP, "_energy", "Bound(0, WORK, -1)"),
    noop("no bound by full buffers", f"{SOLVE}/rcpsp/bound.py", RCPSP, "one_machine", "Bound(0, BUFFER, -1)"),
    wrong("joins are no later than the longest path", f"{SOLVE}/rcpsp/bound.py", RCPSP, "if task not in joins:", "if True:"),
    wrong("one list rule", f"{SOLVE}/rcpsp/greedy.py", SCHEDULE_STAGES, '("program", "tail", "ready", "program-double", "tail-double")', '("program",)', fast=True),
    wrong("among many kinds, any that fits goes first", f"{SOLVE}/rcpsp/greedy.py", SCHEDULE_STAGES, "first = ready[self.heads[ready] == self.heads[ready].min()].tolist()", "first = ready.tolist()[:1]", fast=True),
    wrong("tails rank nothing", f"{SOLVE}/rcpsp/greedy.py", SCHEDULE_STAGES, 'if rule != "tail":', "if True:", fast=True),
    wrong("arrival ranks nothing", f"{SOLVE}/rcpsp/greedy.py", SCHEDULE_STAGES, 'by_arrival=name == "ready"', "by_arrival=False", fast=True),
    wrong("a double rule keeps room for one", f"{SOLVE}/rcpsp/greedy.py", SCHEDULE_STAGES, "run.reserved = 2 if double else 1", "run.reserved = 1", fast=True),
    wrong("list scheduling looks at no room", f"{SOLVE}/rcpsp/greedy.py", SCHEDULE_STAGES, "kept = 0 if first < 0 or first >= number else self.reserved", "kept = 0", fast=True),
    wrong("the checker sees no resources", f"{SOLVE}/rcpsp/check.py", f"{RCPSP}/test_solve.py", "if used > problem.capacities[resource]:", "if False:", fast=True),
    # Placement.
    noop("CP-SAT improves nothing", f"{SOLVE}/placement/exact.py", PLACEMENT_STAGES, "improve", fast=True),
    noop("no clusters", f"{SOLVE}/placement/cluster.py", PLACEMENT_STAGES, "cluster", fast=True),
    noop("clusters are not tightened", f"{SOLVE}/placement/cluster.py", PLACEMENT_STAGES, "_exchange", "blocks", fast=True),
    noop("local search does nothing", f"{SOLVE}/placement/search.py", PLACEMENT_STAGES, "search", fast=True),
    noop("nothing is relocated", f"{SOLVE}/placement/search.py", PLACEMENT_STAGES, "relocate", "False", fast=True),
    noop("nothing is exchanged", f"{SOLVE}/placement/search.py", PLACEMENT_STAGES, "exchange", "False", fast=True),
    noop("nothing is rebuilt", f"{SOLVE}/placement/search.py", PLACEMENT_STAGES, "rebuild", "False", fast=True),
    noop("no replicas", f"{SOLVE}/placement/replicate.py", PLACEMENT_STAGES, "replicate", "replicas", fast=True),
    noop("replicas do not move", f"{SOLVE}/placement/replicate.py", PLACEMENT_SHARED, "relocate", "False", fast=True),
    noop("replicas do not change places", f"{SOLVE}/placement/replicate.py", PLACEMENT_SHARED, "exchange", "False", fast=True),
    noop("no copy gives up its place", f"{SOLVE}/placement/replicate.py", PLACEMENT_SHARED, "displace", "False", fast=True),
    noop("all layers use all banks", f"{SOLVE}/placement/concentrate.py", PLACEMENT_SHARED, "spans", "[None] * len(layers)", fast=True),
    noop("nobody needs company", f"{SOLVE}/placement/bound.py", PLACEMENT_SHARED, "_company", "0.0", fast=True),
    wrong("computation costs nothing", f"{SOLVE}/placement/step_time.py", PLACEMENT_SHARED, "return np.asarray(np.maximum(reading, computing))", "return np.asarray(reading)", fast=True),
    wrong("the search forgets computation", f"{SOLVE}/placement/search.py", PLACEMENT_SHARED, "    computes = any(", "    computes = False and any(", fast=True),
    noop("no trial", f"{SOLVE}/placement/trial.py", PLACEMENT_TRIAL, "cut_trial", "cut(first, length, batch, width), cut(first, length, batch, width)", fast=True),
    noop("unseen experts count nothing", f"{SOLVE}/placement/trial.py", PLACEMENT_TRIAL, "with_prior", "steps", fast=True),
    wrong("training steps choose", f"{SOLVE}/placement/solver.py", PLACEMENT_TRIAL, "scores = {name: trial_seconds(", "scores = {name: mean_seconds(", fast=True),
    wrong("groups are not searched", f"{SOLVE}/placement/solver.py", PLACEMENT_STAGES, "        search(state, seed + number, work // (4 * STARTS))\n", "", fast=True),
    wrong("runs of any width are not searched", f"{SOLVE}/placement/solver.py", PLACEMENT_STAGES, "        search(fine[-1], seed + number, work // (4 * FINISHERS))\n", "", fast=True),
    wrong("CP-SAT is not asked to place", f"{SOLVE}/placement/solver.py", PLACEMENT_STAGES, "    improve(best, seed)\n", "", fast=True),
    wrong("replicas are thrown away", f"{SOLVE}/placement/solver.py", PLACEMENT_STAGES, 'yield REPLICAS, copied if widths == banks else refine(copied, widths)', "pass", fast=True),
    wrong("a baseline of another residency is not taken", f"{SOLVE}/placement/solver.py", PLACEMENT, "if best.trial >= found.trial * (1 - PROVED):", "if True:"),
    noop("re-planning adopts no layer", f"{SOLVE}/placement/replan.py", f"{PLACEMENT}/test_replan.py", "_adopt", "plans, []"),
    noop("re-planning exchanges no residents", f"{SOLVE}/placement/replan.py", f"{PLACEMENT}/test_replan.py", "_exchange_residents", "previous, []", fast=True),
    noop("re-planning moves no single expert", f"{SOLVE}/placement/replan.py", f"{PLACEMENT}/test_replan.py", "run", "[]"),
    noop("banks are not numbered for the fewest bytes", f"{SOLVE}/placement/replan.py", f"{PLACEMENT}/test_replan.py", "_aligned", "new.replicas"),
    noop("groups are not refined", f"{SOLVE}/placement/groups.py", PLACEMENT, "refine", "replicas", fast=True),
    noop("one grouping of banks", f"{SOLVE}/placement/groups.py", PLACEMENT, "groupings", "[(1,) * banks]", fast=True),
    noop("layers are not numbered to fit", f"{SOLVE}/placement/assemble.py", PLACEMENT_STAGES, "numbering", "None", fast=True),
    noop("no placement bound", f"{SOLVE}/placement/bound.py", PLACEMENT_STAGES, "lower_bound", "0.0", fast=True),
    wrong("no bound by the link", f"{SOLVE}/placement/bound.py", PLACEMENT_STAGES, "np.maximum(np.maximum(even, external), _trade_off(problem, of_tokens, even))", "np.maximum(even, external)", fast=True),
    noop("no bound over residencies", f"{SOLVE}/placement/bound.py", PLACEMENT_STAGES, "any_residency_bound", "0.0", fast=True),
    wrong("the most popular leave", f"{SOLVE}/placement/residency.py", PLACEMENT_STAGES, "return Knapsack(sizes, wholes, uses * sizes, uses * wholes, room)", "return Knapsack(sizes, wholes, sizes / (1 + uses), wholes / (1 + uses), room)", fast=True),
    wrong("the link costs nothing", f"{SOLVE}/placement/step_time.py", PLACEMENT, "return np.asarray(heard(by) * (", "return np.asarray(0 * heard(by) * (", fast=True),
    wrong("loads cost nothing", f"{SOLVE}/placement/step_time.py", f"{PLACEMENT}/test_solve.py", "    external = external_seconds(rates", "    external = 0 * external_seconds(rates"),
    # Replica dispatch.
    wrong("no path of moves", f"{SOLVE}/replica/dispatcher.py", "tests/passes/solve/replica", "improve = self._shift if self.is_exact else self._move", "improve = self._move", fast=True),
    wrong("no single moves", f"{SOLVE}/replica/dispatcher.py", "tests/passes/solve/replica", "            while improve(experts, places, load, chosen):\n                pass\n", "            pass\n"),
    # select-draft.
    wrong("acceptance ignores coverage", "passes/moe_passes/plan/acceptance.py", DRAFT, "np.interp(coverage, self", "np.interp(1.0, self", fast=True),
    wrong("rules share their replays", "passes/moe_passes/solve/draft/solver.py", DRAFT, "same = (setting.length, setting.rule, levels.tobytes())", "same = (setting.length, setting.rule.every_rounds, levels.tobytes())  # type: ignore[assignment]"),
    wrong("residents share their replays", "passes/moe_passes/solve/draft/solver.py", DRAFT, "setting.rule, levels.tobytes())", 'setting.rule, b"")'),
    wrong("acceptance ignores γ", "passes/moe_passes/plan/acceptance.py", DRAFT, "return float(sum(survival))", "return rate * length", fast=True),
    wrong("the tail decides beyond what is known", "passes/moe_passes/plan/acceptance.py", DRAFT, "survival += [survival[-1] * one**i for", "survival += [survival[-1] for", fast=True),
    wrong("one probability for all rounds", "passes/moe_passes/plan/acceptance.py", DRAFT, "(mean * CONCENTRATION + j) / (CONCENTRATION + j)", "mean", fast=True),
    wrong("what is not sliced wins nothing", "passes/moe_passes/plan/acceptance.py", DRAFT, "(1 - UNSLICED_GAIN * unsliced)", "1", fast=True),
    wrong("what was measured is forgotten", "passes/moe_passes/plan/acceptance.py", DRAFT, "        if self.measured:\n            return self._of", "        if self.measured and False:\n            return self._of", fast=True),
    wrong("a draft without experts is accepted", "passes/moe_passes/plan/acceptance.py", DRAFT, "known = {0.0: 0.0} |", "known = {0.0: 0.3} |"),
    wrong("a mixed draft is credited with the better kind", "passes/moe_passes/plan/acceptance.py", DRAFT, "return min(_interpolated(", "return max(_interpolated("),
    wrong("one curve for all models", f"{SOLVE}/draft/acceptance.py", DRAFT, "return (model,) if model in PUBLISHED else tuple(PUBLISHED)", "return tuple(PUBLISHED)", fast=True),
    wrong("settings are not varied", f"{SOLVE}/draft/solver.py", DRAFT, "for _ in range(sweeps):", "for _ in range(0):", fast=True),
    wrong("one KV layout", f"{SOLVE}/draft/solver.py", DRAFT, "for banks in problem.copies_bytes)", "for banks in [setting.kv_banks])", fast=True),
    wrong("one rule", f"{SOLVE}/draft/solver.py", DRAFT, "for rule in problem.rules)", "for rule in problem.rules[:1])", fast=True),
    wrong("what streams past is no work", f"{SOLVE}/rcpsp/bound.py", "tests/passes/solve/rcpsp/test_bound.py", "rest + durations[later].sum() + tail", "rest + tail", fast=True),
    wrong("the closed form decides", f"{SOLVE}/draft/solver.py", DRAFT, "return candidate.seconds_per_token, candidate", "return candidate.estimate, candidate", fast=True),
    noop("break-even is 0", f"{SOLVE}/draft/solver.py", DRAFT, "break_even", '0.0', fast=True),
    wrong("break-even against the slowest plain plan", f"{SOLVE}/draft/solver.py", DRAFT, "plain = min(c.seconds", "plain = max(c.seconds", fast=True),
    wrong("nothing is loaded during the draft", f"{SOLVE}/draft/bound.py", DRAFT, "overlap = np.minimum(early, min(draft, room))", "overlap = 0 * early", fast=True),
    wrong("a bound that is wrong is cut to what was found", f"{SOLVE}/draft/solver.py", DRAFT, "lower_bound=bound.seconds", "lower_bound=min(bound.seconds, best.seconds_per_token)"),
    wrong("the same is dispatched again", f"{SOLVE}/draft/solver.py", DRAFT, "if same not in found:", "if True:"),
    wrong("the closed form is wrong by the same at every length", f"{SOLVE}/draft/solver.py", DRAFT, "+ self.slope * (length - nearest)", "", fast=True),
    wrong("pieces of an expert are read one by one", "moe_compiler/runtime/native.py", "tests/compiler/test_store.py::test_an_expert_is_one_read_however_it_comes", "while last < parts.shape[0] and parts[last - 1, SOURCE] + parts[last - 1, SIZE] == parts[last, SOURCE]:", "while False:"),
    wrong("what lies apart is read at once", "moe_compiler/runtime/native.py", "tests/compiler/test_store.py::test_an_expert_is_one_read_however_it_comes", "while last < parts.shape[0] and parts[last - 1, SOURCE] + parts[last - 1, SIZE] == parts[last, SOURCE]:", "while last < parts.shape[0]:"),
    wrong("a read that is interrupted fails", "moe_compiler/runtime/native.py", "tests/compiler/test_store.py::test_an_interrupted_read_goes_on_and_one_that_fails_says_why", "if error != INTERRUPTED:", "if True:"),
    wrong("reads are held to no rate", "moe_compiler/runtime/native.py", "tests/compiler/test_store.py::test_reads_are_held_to_a_rate_whoever_reads", "        end = max(until, start) + took", "        end = until", fast=True),
    wrong("each who reads has a rate of its own", "moe_compiler/runtime/native.py", "tests/compiler/test_store.py::test_reads_are_held_to_a_rate_whoever_reads", "if exchange(pace, UNTIL, until, end):", "if True:", fast=True),
    wrong("the thread reads in no order", "moe_compiler/runtime/native.py", "tests/compiler/test_reader.py", "jobs[place, URGENCY] < jobs[best, URGENCY]", "False", fast=True),
    wrong("what has begun is taken back", "moe_compiler/runtime/reader.py", "tests/compiler/test_reader.py", "if not native.exchange(self._states, place, native.PENDING, native.FREE):", "if False:", fast=True),
    noop("a dead thread is waited for", "moe_compiler/runtime/reader.py", "tests/compiler/test_reader.py", "wait", fast=True),
    wrong("what has not begun keeps its slots", "moe_compiler/runtime/staging.py", "tests/compiler/test_staging.py", "            or (e.state == LOADING and e.urgency > entry.urgency)\n", "", fast=True),
    wrong("a scale below the normal ones is nothing", "moe_compiler/runtime/products.py", "tests/compiler/test_runtime.py::test_a_scale_is_the_float_that_its_bits_mean", "digits + 1024 if exponent else digits", "digits + 1024 if exponent else 0", fast=True),
    wrong("an embedding's rows are read each time", "moe_compiler/runtime/store_file.py", "tests/compiler/test_store.py::test_rows_of_an_embedding_that_were_read_last_are_kept", "lru_cache(KEPT_ROWS)", "lru_cache(0)"),
    wrong("all rows of an embedding are kept", "moe_compiler/runtime/store_file.py", "tests/compiler/test_store.py::test_rows_of_an_embedding_that_were_read_last_are_kept", "lru_cache(KEPT_ROWS)", "lru_cache(None)"),
    wrong("what becomes resident is written before what it replaces is computed", "moe_compiler/runtime/store.py", "tests/compiler/test_following.py::test_what_becomes_resident_takes_its_place_when_both_are_computed", "if self._uncomputed.isdisjoint(pair)]", "if pair[0] not in self._uncomputed]"),
    wrong("what becomes resident does not wait", "moe_compiler/runtime/store.py", "tests/compiler/test_following.py::test_what_becomes_resident_waits_for_what_it_replaces", "if self._incoming.get(expert) not in self._uncomputed]", "]"),
    wrong("a run goes on with what an earlier one left near", "moe_compiler/generation.py", "tests/compiler/test_run.py::test_the_same_prompts_and_seed_get_the_same_run_whatever_was_run_before", "        self.near = None\n        return self._content", "        return self._content"),
    wrong("the prompt changes the round that is replayed", "moe_compiler/runtime/main.py", "tests/compiler/test_runtime.py::test_the_replay_runs_the_scheduled_round_in_its_order_at_its_addresses", "Decoder(model, frozen(plan), prompts, capacity)) as decoder", "Decoder(model, plan, prompts, capacity)) as decoder"),
    wrong("what becomes resident streams past", "moe_compiler/runtime/store.py", "tests/compiler/test_following.py::test_what_becomes_resident_is_loaded_though_the_rest_is_not", 'passes = self.rule.late == "stream" and expert not in self._incoming', 'passes = self.rule.late == "stream"'),
    wrong("what becomes resident is computed far", "moe_compiler/runtime/store.py", "tests/compiler/test_following.py::test_what_becomes_resident_is_loaded_though_the_rest_is_not", "self.rule.most_far_tokens and expert not in self._incoming", "self.rule.most_far_tokens"),
    wrong("residents stay while the prompt is read", "moe_compiler/runtime/decoder.py", "tests/compiler/test_following.py::test_residents_follow_the_prompt", "        self.store.following = replace(rule, most=every, every_rounds=1)\n", ""),
    wrong("residents stay after the prompt", "moe_compiler/runtime/decoder.py", "tests/compiler/test_following.py::test_what_becomes_resident_is_written_from_what_was_loaded", "        self.store.following = rule\n", "        self.store.following = replace(rule, window_tokens=0)\n"),
    wrong("a run reads the residents again", "moe_compiler/generation.py", "tests/compiler/test_run.py::test_a_conversation_goes_on_with_what_is_near", "_sampling(asked), near)", "_sampling(asked))"),
    wrong("a failed run's residents are gone on with", "moe_compiler/generation.py", "tests/compiler/test_run.py::test_a_conversation_goes_on_with_what_is_near", "near, self.near = self.near, None", "near = self.near"),
    wrong("a chat template may take all memory it likes", "moe_compiler/runtime/bounded.py", "tests/compiler/test_words.py::test_a_chat_template_cannot_exhaust_the_machine", "_limit(resource.RLIMIT_DATA, found + limits.bytes)", "pass"),
    wrong("a GPU computes a slice with no half step", "moe_compiler/runtime/gpu_kernels.py", "tests/compiler/test_gpu.py::test_products_are_those_of_the_cpu_and_batch_invariant_to_the_last_bit", "0x88", "0x00", fast=True),
    wrong("a GPU looks beyond a window", "moe_compiler/runtime/gpu_kernels.py", "tests/compiler/test_gpu.py::test_attention_is_that_of_the_cpu_and_batch_invariant_to_the_last_bit", "tl.where(window > 0, tl.maximum(seen - window, 0), 0)", "0"),
    wrong("sums of rows are those of torch on a GPU", "moe_compiler/runtime/gpu.py", "tests/compiler/test_gpu.py::test_sums_and_means_of_rows_are_caught_and_nothing_else", "    if keeps is None:", "    if True:"),
    wrong("a GPU multiplies as torch does", "moe_compiler/runtime/gpu.py", "tests/compiler/test_gpu.py::test_a_model_that_needs_what_depends_on_the_number_of_rows_is_refused", "if any(isinstance(value, Tensor) and value.is_floating_point() for value in args):", "if False:", fast=True),
    wrong("copies that are held to a rate take as long as all before them", "moe_compiler/runtime/pinned.py", "tests/compiler/test_gpu.py::test_copies_are_held_to_a_rate_whoever_makes_them", "max(start, copying.begin)", "start"),
    wrong("a scratch buffer is as small as another layer's", "moe_compiler/runtime/far.py", "tests/compiler/test_store.py", "if layout not in self._rooms:", "if not self._rooms:"),
    wrong("copies begin in any order", "moe_compiler/runtime/pinned.py", "tests/compiler/test_gpu.py::test_the_most_urgent_copies_begin_first_and_few_at_a_time", "key=lambda place: self._waiting[place].urgency", "key=lambda place: -place"),
    noop("no copy is made more urgent", "moe_compiler/runtime/pinned.py", "tests/compiler/test_gpu.py::test_the_most_urgent_copies_begin_first_and_few_at_a_time", "hurry"),
    wrong("copies are not held to a rate", "moe_compiler/runtime/far.py", "tests/compiler/test_gpu.py::test_copies_are_held_to_a_rate_whoever_makes_them", "if not pace[native.RATE]:", "if True:"),
    wrong("memory stays pinned", "moe_compiler/runtime/pinned.py", "tests/compiler/test_gpu.py::test_what_cannot_be_pinned_is_undone", "        gpu.unpin(arenas.pop())", "        arenas.pop()", fast=True),
    wrong("what runs on a GPU loads from the disk", "moe_compiler/generation.py", "tests/compiler/test_gpu.py::test_a_run_gives_the_tokens_of_decoding_one_at_a_time_and_those_of_the_cpu", "from_store(store, far, runs_on.processor)", "from_store(store, store, runs_on.processor)"),
    wrong("a softmax may be over any dimension", "moe_compiler/runtime/linear.py", "tests/compiler/test_runtime.py::test_routers_of_all_kinds_are_caught_and_nothing_else", " and dim in (-1, input.dim() - 1)", ""),
    noop("no bound on the draft", f"{SOLVE}/draft/bound.py", DRAFT, "lower_bound", '0.0', fast=True),
    noop("draft steps take no time", f"{SOLVE}/draft/bound.py", DRAFT, "draft_step_seconds", '0.0', fast=True),
    wrong("writing the hot set is free", f"{SOLVE}/draft/bound.py", DRAFT, "outside = draft + written * 2", "outside = draft + written * 0", fast=True),
    wrong("auto weighs no γ", f"{SOLVE}/draft/prepare.py", DRAFT, "return tuple(range(min(longest,", "return tuple(range(0 * min(longest,", fast=True),
    wrong("auto weighs one staging size", f"{SOLVE}/draft/prepare.py", DRAFT, "for n in STAGED_EXPERTS if n * staged <= most)", "for n in STAGED_EXPERTS[:1])", fast=True),
    wrong("all training tokens choose", f"{SOLVE}/draft/prepare.py", DRAFT, "counts = popularity(trace, half)", "counts = popularity(trace)", fast=True),
    wrong("copies of a cache cost nothing", f"{SOLVE}/draft/prepare.py", DRAFT, "n: of.kept_kv_bytes(banks, n) - of.kv_bytes for", "n: 0 for", fast=True),
    wrong("the set stays as it is", f"{SOLVE}/draft/history.py", DRAFT, "kept[layer, new], kept[layer, old] = entered, NONE", "pass", fast=True),
    wrong("everything is covered", f"{SOLVE}/draft/history.py", DRAFT, "coverage=covered / rounds.asks if rounds.asks else 1.0", "coverage=1.0", fast=True),
    # Dispatch policy, steady state, hot set.
    wrong("guesses are never dropped", f"{SOLVE}/dispatch/online.py", DISPATCH, "self.dropped.add(guess.task)", "pass", fast=True),
    wrong("likelihoods do not rank", f"{SOLVE}/dispatch/online.py", DISPATCH, "(1001 - permille) * len(problem.tasks)", "1001 * len(problem.tasks)", fast=True),
    wrong("no engine rule", f"{SOLVE}/dispatch/online.py", DISPATCH, 'self.only_first = plan.engine == "first"', "self.only_first = False", fast=True),
    noop("engines are not varied", f"{SOLVE}/dispatch/solver.py", DISPATCH, "_engines", "iter((plan,))", fast=True),
    noop("sure loads are not varied", f"{SOLVE}/dispatch/solver.py", DISPATCH, "_sure", "iter((plan,))", fast=True),
    noop("guesses are not varied", f"{SOLVE}/dispatch/solver.py", DISPATCH, "_guesses", "iter((plan,))", fast=True),
    wrong("one order of loads", f"{SOLVE}/dispatch/solver.py", DISPATCH, 'for order in ("likelihood", "program"):', 'for order in ("likelihood",):', fast=True),
    noop("nothing crosses into the next round", f"{SOLVE}/steady_state/solver.py", "tests/passes/solve/steady_state", "_counts", "[]", fast=True),
    noop("the steady state has no bound", f"{SOLVE}/steady_state/solver.py", "tests/passes/solve/steady_state", "_load_bound", "0", fast=True),
    noop("any number of loads may be held at the border", f"{SOLVE}/steady_state/solver.py", "tests/passes/solve/steady_state", "_most_crossing", "1 << 60", fast=True),
    noop("the steady state is not checked", f"{SOLVE}/steady_state/check.py", "tests/passes/solve/steady_state", "repeated_violations", "[]", fast=True),
    noop("nothing is promoted", f"{SOLVE}/hot_set/follow.py", "tests/passes/solve/hot_set", "hottest_for_coldest", "NO_PAIRS", fast=True),
    wrong("colder newcomers are promoted", f"{SOLVE}/hot_set/follow.py", "tests/passes/solve/hot_set", "np.flatnonzero(incoming[rows, new] > leaving[rows, old])", "np.flatnonzero(np.isfinite(incoming[rows, new]) & np.isfinite(leaving[rows, old]))", fast=True),
    wrong("hotness never fades", f"{SOLVE}/hot_set/follow.py", "tests/passes/solve/hot_set", "math.exp(-tokens / self.rule.window_tokens)", "1.0", fast=True),
    wrong("a newcomer has no place", f"{SOLVE}/hot_set/follow.py", "tests/passes/solve/hot_set", "self.place[pairs.layer, pairs.new] = self.place[pairs.layer, pairs.old]", "self.place[pairs.layer, pairs.new] = pairs.new", fast=True),
    wrong("rounds begin anew", "passes/moe_passes/tasks/rounds.py", "tests/passes/tasks", "            reader.skip(tokens[number])", "            pass", fast=True),
    noop("a prompt takes no time", "passes/moe_passes/tasks/prefill.py", "tests/passes/tasks", "prefill", "Prefill(prompt_tokens, 1, 0.0)", fast=True),
    wrong("the head runs for every token", "passes/moe_passes/tasks/build.py", "tests/passes/tasks", "self.width, self.head_width = width or plan.length + 1, 1 if width else plan.length + 1", "self.width = self.head_width = width or plan.length + 1", fast=True),
    wrong("parts of a cache are not merged", "passes/moe_passes/estimate/dense.py", "tests/passes/estimate", "merged = kv_banks * part.merged_elements if kv_banks > 1 and context else 0", "merged = 0", fast=True),
    wrong("accepted lengths are not cumulated", "moe_compiler/traces/acceptance.py", "tests/compiler/test_acceptance.py", "counts[::-1].cumsum()[::-1]", "counts", fast=True),
    # Allocation.
    wrong("one order of first fit", f"{SOLVE}/allocation/solver.py", f"{ALLOCATION}/test_solve.py", "for order in ORDERS[1:]:", "for order in ():"),
    noop("no canonical search", f"{SOLVE}/allocation/canonical.py", ALLOCATION, "search", "Outcome(None, False, 0)", fast=True),
    noop("CP-SAT is not asked to allocate", f"{SOLVE}/allocation/solver.py", f"{ALLOCATION}/test_solve.py", "_cp_sat", 'None, "unknown"', fast=True),
    wrong("any file is read", "moe_compiler/paths.py", "tests/compiler/test_files.py", "if not stat.S_ISREG(found.st_mode):", "if False:", fast=False),
    wrong("arrays of any size are unpacked", "moe_compiler/paths.py", "tests/compiler/test_files.py", "if kind.hasobject or size > MOST_ARRAY_BYTES:", "if False:", fast=True),
    wrong("notes are markup", "moe_compiler/cli/console.py", "tests/compiler/test_files.py", "Console(markup=False, emoji=False, highlight=False, stderr=stderr, width=width)", "Console(stderr=stderr, width=width)", fast=True),
    noop("messages are not cut", "moe_compiler/cli/main.py", "tests/compiler/test_files.py", "_cut", "message", fast=True),
    wrong("copies of an expert share banks", f"{SOLVE}/placement/replicate.py", PLACEMENT_SHARED, "taken[list(other)] = 1.0", "taken[list(other)] = 0.0"),
    noop("the checkers see no shared banks", "passes/moe_passes/plan/decisions.py", f"{PLACEMENT}/test_stages.py", "shared_banks", "()", fast=True),
    noop("every proof is confirmed", f"{SOLVE}/allocation/pairwise.py", ALLOCATION, "is_infeasible", "True", fast=True),
    wrong("what is alive at no time overlaps", f"{SOLVE}/allocation/problem.py", ALLOCATION, "return self.upper <= self.lower", "return False", fast=True),
    noop("no clash is seen", f"{SOLVE}/allocation/conflict.py", ALLOCATION, "clash", "()", fast=True),
    noop("conflicts are not reduced", f"{SOLVE}/allocation/conflict.py", ALLOCATION, "irreducible", "suspects"),
    noop("no bound on the peak", f"{SOLVE}/allocation/bound.py", ALLOCATION, "lower_bound", "0", fast=True),
    # The cost model, term by term.
    wrong("loads leave reads alone", "passes/moe_passes/estimate/analytic.py", ESTIMATE, "hb.efficiency - reserved)", "hb.efficiency)", fast=True),
    wrong("a slow link does not limit loads", "passes/moe_passes/estimate/analytic.py", ESTIMATE, "return min(self.machine.external.bytes_per_second, self.machine.streamline.bytes_per_second)", "return self.machine.external.bytes_per_second", fast=True),
    wrong("external memory has no latency", "passes/moe_passes/estimate/analytic.py", ESTIMATE, "return self.machine.external.latency_seconds + self.machine.streamline.latency_seconds", "return self.machine.streamline.latency_seconds", fast=True),
    wrong("HB has no latency", "passes/moe_passes/estimate/analytic.py", ESTIMATE, "return hb.latency_seconds + bytes_in", "return bytes_in", fast=True),
    wrong("one rate for all widths", "passes/moe_passes/estimate/analytic.py", ESTIMATE, "if bits <= most)", "if most == 8)", fast=True),
    wrong("static power costs nothing", "passes/moe_passes/estimate/analytic.py", ESTIMATE, "machine.static_watts * seconds", "0.0", fast=True),
    wrong("writes cost no energy", "passes/moe_passes/estimate/analytic.py", ESTIMATE, "traffic.hb_write_bytes * hb.write_joules_per_byte", "0.0", fast=True),
    wrong("the link costs no energy", "passes/moe_passes/estimate/analytic.py", ESTIMATE, "traffic.link_bytes * machine.aggregation.joules_per_byte", "0.0", fast=True),
    wrong("streaming costs no energy", "passes/moe_passes/estimate/analytic.py", ESTIMATE, "traffic.external_read_bytes * machine.streamline.joules_per_byte", "0.0", fast=True),
    wrong("dense work gathers nothing", "passes/moe_passes/estimate/dense.py", ESTIMATE, "tokens * (part.gathered_elements + merged)", "tokens * merged", fast=True),
    wrong("dense work reads no cache", "passes/moe_passes/estimate/dense.py", ESTIMATE, " + copies * batch * part.kv_bytes(context)", "", fast=True),
    noop("everything fits", "passes/moe_passes/estimate/feasibility.py", ESTIMATE, "check_fits", fast=True),
    # Tasks.
    noop("banks are one group", "passes/moe_passes/tasks/banks.py", TASKS, "bank_groups", "[0] * banks", fast=True),
    wrong("dead operations run", "passes/moe_passes/tasks/stages.py", TASKS, "for number in sorted(_live(phase)):", "for number in range(len(phase.operations)):", fast=True),
    wrong("what is implied is waited for", "passes/moe_passes/tasks/stages.py", TASKS, "direct = nx.transitive_reduction(graph)", "direct = graph", fast=True),
    wrong("all loads wait for verify", "passes/moe_passes/tasks/build.py", TASKS, "first = moments[0][0] if moments else router", "first = router", fast=True),
    wrong("nothing streams", "passes/moe_passes/tasks/build.py", TASKS, 'streamed = set(late) - far if self.plan.dispatch.late == "stream" else set()', "streamed: set[int] = set()", fast=True),
    wrong("what streams past sends no sum", "passes/moe_passes/tasks/build.py", TASKS, "sums = np.concatenate([heard, passed], axis=1)", "sums = heard", fast=True),
    wrong("a shared link is not", "passes/moe_passes/tasks/modes.py", TASKS, "for taken in sorted({units, 1}, reverse=True)", "for taken in (units,)", fast=True),
    wrong("the extreme round represents", "passes/moe_passes/tasks/rounds.py", TASKS, "[(len(sizes) - 1) // 2]", "[0]", fast=True),
    wrong("likelihoods ignore asks", "passes/moe_passes/routing/likelihood.py", ROUTING, "(asked, of.ask_borders))", "(0 * asked, of.ask_borders))", fast=True),
    wrong("likelihoods ignore the last round", "passes/moe_passes/routing/likelihood.py", ROUTING, "(recent, of.recent_borders)", "(0 * recent, of.recent_borders)", fast=True),
    wrong("all layers have the residents of one", "passes/moe_passes/solve/draft/history.py", DRAFT, "samples[:, :, layer]", "samples[:, :, 0]"),
    wrong("restriction fills nothing", "passes/moe_passes/routing/traces.py", ROUTING, "result[..., order] |= filled", "pass", fast=True),
    wrong("popularity counts what is reported on", "passes/moe_passes/routing/traces.py", ROUTING, "used = trace.experts[:border]", "used = trace.experts", fast=True),
    # IR.
    noop("what aliases stand for is not bounded", "passes/moe_passes/ir/dialects/__init__.py", "tests/passes/ir/test_hostile.py::test_what_aliases_stand_for_is_bounded", "_check_aliases", fast=True),
    # Traces.
    wrong("a text is one sequence", "moe_compiler/profiling.py", "tests/compiler/test_profiling.py::test_routing_is_that_of_transformers_on_the_same_text", "[ids[first : first + length] for first in range(0, len(ids), length)]", "[ids]"),
    wrong("requests ask for nothing", "moe_compiler/traces/like.py", "tests/compiler/test_profile.py", "like.request * request", "0 * request", fast=True),
    wrong("tokens ask for nothing", "moe_compiler/traces/like.py", "tests/compiler/test_profile.py", "like.token * own", "0 * own", fast=True),
    wrong("sequences share requests", "moe_compiler/traces/synthetic.py", "tests/compiler/test_profile.py", "max(LEAST_TOKENS, STEP_TOKENS * batch)", "LEAST_TOKENS", fast=True),
    wrong("nothing is settled", "passes/moe_passes/solve/draft/solver.py", "tests/passes/solve/draft/test_solve.py", "least * (1 + NEAR)", "least * 0.5", fast=True),
    wrong("drift forgets", "moe_compiler/traces/like.py", "tests/compiler/test_profile.py", "like.memory * drift[token - 1] +", "0 * drift[token - 1] +", fast=True),
    # Evaluation.
    noop("no critical path", "moe_compiler/evaluate/report.py", "tests/compiler/evaluate", "critical_path", "[]", fast=True),
    wrong("waiting is not told", "moe_compiler/evaluate/report.py", "tests/compiler/evaluate", 'seconds["waiting"] = seconds.get("waiting", 0) + start - earlier', "pass", fast=True),
    noop("nothing is busy", "moe_compiler/evaluate/report.py", "tests/compiler/evaluate", "busy_fractions", "{}", fast=True),
    wrong("a resource is all in use", "moe_compiler/evaluate/report.py", "tests/compiler/evaluate", "used[resource] += mode.duration * amount", "used[resource] += mode.duration * problem.capacities[resource]", fast=True),
    # Any machine, any model.
    wrong("loads cost no latency", "passes/moe_passes/plan/tiers.py", ESTIMATE, "return sum(w.latency_seconds for w in ways) + tiers[-1].latency_seconds + size_bytes / slowest", "return size_bytes / slowest", fast=True),
    wrong("links are as fast as the fastest", "passes/moe_passes/plan/tiers.py", ESTIMATE, "slowest = min(min(", "slowest = max(max(", fast=True),
    noop("the far engine is free", "passes/moe_passes/estimate/step.py", ESTIMATE, "_far_seconds", "0.0", fast=True),
    wrong("layers cost nothing fixed", "passes/moe_passes/estimate/step.py", ESTIMATE, "fixed += size.layers * near.layer_seconds + here", "fixed += here", fast=True),
    noop("every weight runs at the narrowest rate", "passes/moe_passes/plan/tiers.py", ESTIMATE, "rate", "self.macs_per_second[0][1]", fast=True),
    # What is near of each expert, and what becomes of the others.
    wrong("no expert is kept whole", f"{SOLVE}/residency/solver.py", RESIDENCY, "return self._top_up(levels, left), bound", "return np.minimum(levels, MSB), bound", fast=True),
    wrong("room is left over", f"{SOLVE}/residency/solver.py", RESIDENCY, "return self._top_up(levels, left), bound", "return levels, bound", fast=True),
    wrong("a rest is worth no more than its slice", "passes/moe_passes/plan/accounts.py", RESIDENCY, "return (rest_bytes > 0) & (np.asarray(slice_value) / slice_bytes > rest * (1 + TIE))", "return rest_bytes > 0", fast=True),
    noop("the bound of what is kept is not checked", f"{SOLVE}/residency/check.py", RESIDENCY, "least_bound", 'float("inf")', fast=True),
    wrong("random experts are the popular ones", f"{SOLVE}/residency/fixed.py", RESIDENCY, "if place.kind == SHARE and place.order == RANDOM:", "if False:", fast=True),
    noop("a cache keeps what it has", f"{SOLVE}/residency/fixed.py", RESIDENCY, "rule_of", "FROZEN", fast=True),
    noop("any placement can be", f"{SOLVE}/residency/fixed.py", RESIDENCY, "check_place", fast=True),
    wrong("whole residents are loaded all the same", f"{SOLVE}/draft/history.py", DRAFT, "np.packbits(resident), np.packbits(kept == MSB)", "np.packbits(resident), np.packbits(resident)", fast=True),
    wrong("coverage counts nothing", "passes/moe_passes/plan/accounts.py", DRAFT, "covered = self.coverage_weight * chosen", "covered = 0 * chosen", fast=True),
    wrong("what is computed far takes no time", f"{SOLVE}/draft/bound.py", DRAFT, "np.maximum(near, computed) + swapped", "near + swapped", fast=True),
    noop("nothing is computed far", "passes/moe_passes/tasks/build.py", TASKS, "_late", "{}", fast=True),
    wrong("what is loaded ahead is computed far", "passes/moe_passes/tasks/build.py", TASKS, "tokens_of, ahead.union(promoted))", "tokens_of, set(promoted))", fast=True),
    wrong("what becomes resident is computed far", "passes/moe_passes/tasks/build.py", TASKS, "tokens_of, ahead.union(promoted))", "tokens_of, ahead)", fast=True),
    wrong("nothing is sent to the far engine", "passes/moe_passes/tasks/build.py", TASKS, "            seconds += self.cost.send_seconds(len(verify) * self.plan.hidden * BYTES_PER_ACTIVATION)\n", "            pass\n", fast=True),
    wrong("a draft reads all of a whole resident", "passes/moe_passes/plan/model.py", TASKS, "return self.msb_bytes if bits < WHOLE_BITS else self.whole_bytes", "return self.whole_bytes", fast=True),
    wrong("a load takes nothing from the far engine", "passes/moe_passes/estimate/analytic.py", TASKS, "rate = min(rate, self.machine.external.bytes_per_second - self._load_bytes_per_second())", "pass", fast=True),
    wrong("one memory has no room for experts", "passes/moe_passes/estimate/feasibility.py", ESTIMATE, "(of.model.embedding_bytes if space.is_unified else 0)", "0", fast=True),
    noop("the far memory holds everything", "passes/moe_passes/estimate/feasibility.py", ESTIMATE, "deep_experts", "0", fast=True),
    noop("nothing lies deep", "passes/moe_passes/tasks/build.py", "tests/passes/verify", "_deep_seconds", "(0.0, ())", fast=True),
    wrong("fixed times of dense work are not in the round", "passes/moe_passes/tasks/build.py", TASKS, ' + self.cost.fixed_seconds(what, plan.batch * (1 if is_draft else self.width))', "", fast=True),
    wrong("every model is known", "passes/moe_passes/plan/known.py", f"{DRAFT}/test_prepare.py", "if (model.hidden, model.layers) == facts[:2] and is_near:", "if True:", fast=True),
    wrong("dense weights are sliced in any format", "passes/moe_passes/solve/draft/prepare.py", f"{DRAFT}/test_prepare.py", "if of.model.slices_dense else (WHOLE_BITS,)", "if True else ()", fast=True),
    noop("a part may be nowhere", "passes/moe_passes/ir/raising.py", "tests/compiler/test_architectures.py::test_a_part_that_is_nowhere_is_named", "check_complete", fast=True),
    wrong("layers stay where they were traced", "passes/moe_passes/ir/raising.py", "tests/compiler/test_models.py::test_raise_accounts_for_every_parameter", "found.append(part.at(number * several", "found.append(part.at(of * several"),
    noop("a cache always hits", "moe_compiler/estimation.py", "tests/compiler/test_estimate.py::test_a_cache_that_is_least_recently_used", "lru", "used", fast=True),
    noop("no machine is wrong", "moe_compiler/hardware/schema_2.py", "tests/compiler/test_tiers.py", "_shape", "[]", fast=True),
    noop("two engines may share a memory", "moe_compiler/hardware/schema_2.py", "tests/compiler/test_tiers.py", "_doubled", "[]", fast=True),
    wrong("products of few tokens run at the peak", "passes/moe_passes/plan/tiers.py", ESTIMATE, "reached = [rate for width, rate in by_width if width <= tokens]", "reached = [by_width[-1][1]]", fast=True),
    # The runtime.
    wrong("a slice has no half step", "moe_compiler/runtime/quantise.py", "tests/compiler/test_runtime.py::test_slices_put_together_are_the_weight_and_the_draft_error_is_half_a_step", " + HALF_STEP", "", fast=True),
    wrong("a product with a slice has no half step", "moe_compiler/runtime/products.py", "tests/compiler/test_runtime.py::test_products_are_batch_invariant_to_the_last_bit", "every(0x88)", "every(0x80)"),
    wrong("activations of 8 bits are not rounded", "moe_compiler/runtime/kernels.py", "tests/compiler/test_run.py::test_activations_of_8_bits_have_a_witness_of_their_own", "rows if self.activation_bits == WHOLE_ACTIVATION_BITS else rounded(rows)", "rows"),
    wrong("activations are rounded by the row", "moe_compiler/runtime/quantise.py", "tests/compiler/test_runtime.py::test_rounded_activations_are_whole_steps_within_half_a_step_and_batch_invariant", "grouped.abs().amax(dim=-1, keepdim=True)", "grouped.abs().amax(dim=(-2, -1), keepdim=True)", fast=True),
    noop("an embedding is not looked through", "moe_compiler/runtime/store_file.py", "tests/compiler/test_store.py::test_a_damaged_embedding_is_refused_before_anything_is_generated", "check_rows"),
    wrong("a group has half a group's scale", "moe_compiler/runtime/products.py", "tests/compiler/test_runtime.py::test_products_are_batch_invariant_to_the_last_bit", "at.type(GROUP)", "at.type(2 * GROUP)"),
    wrong("the last half of a group is not dequantised", "moe_compiler/runtime/products.py", "tests/compiler/test_runtime.py::test_products_are_batch_invariant_to_the_last_bit", "    if half % GROUP:\n", "    if False:\n"),
    wrong("the last group of a row is not multiplied", "moe_compiler/runtime/products.py", "tests/compiler/test_runtime.py::test_products_are_batch_invariant_to_the_last_bit", 'builder.icmp_unsigned("!="', 'builder.icmp_unsigned("<"'),
    wrong("what is next gives way", "benchmarks/peers.py", "tests/test_benchmarks.py", "del cached[max(", "del cached[min(", fast=True),
    wrong("a softmax is of what is not normalised", "moe_compiler/runtime/compiled.py", "tests/compiler/test_runtime.py::test_a_softmax_is_that_of_torch_and_batch_invariant_to_the_last_bit", "            result[row, n] /= total\n", "            pass\n"),
    wrong("a row attends to what follows it", "moe_compiler/runtime/compiled.py", "tests/compiler/test_runtime.py::test_attention_is_that_of_torch_and_batch_invariant_to_the_last_bit", "last[row] + 1\n", "keys.shape[2]\n"),
    wrong("heads share no key", "moe_compiler/runtime/compiled.py", "tests/compiler/test_runtime.py::test_attention_is_that_of_torch_and_batch_invariant_to_the_last_bit", "head // (heads // keys.shape[1])", "head % keys.shape[1]"),
    wrong("rows are multiplied together", "moe_compiler/runtime/linear.py", "tests/compiler/test_runtime.py::test_products_are_batch_invariant_to_the_last_bit", "    kernel(packed.top.numpy(), low.numpy(), scales, aligned.numpy(), result.numpy())\n    return result", "    return rows @ packed.weights(is_slice).T", fast=True),
    noop("staging keeps what a layer does not need", "moe_compiler/runtime/staging.py", "tests/compiler/test_staging.py", "keep", fast=True),
    wrong("a drafted token always stands", "moe_compiler/runtime/sampling.py", "tests/compiler/test_sampling.py", "* draft[token] < target[token]:", "* 0 < 1:", fast=True),
    wrong("what is drawn instead is the target's", "moe_compiler/runtime/sampling.py", "tests/compiler/test_sampling.py", "beyond = (target - draft).clamp(min=0)", "beyond = target", fast=True),
    wrong("a damaged piece is not noticed", "moe_compiler/runtime/store_file.py", "tests/compiler/test_store.py::test_a_damaged_store_is_refused_and_says_where", "if offset not in self._sound and isal_zlib.crc32(room.numpy().data[:size]) != code:", "if False:"),
    wrong("why a chat template fails is what it says", "moe_compiler/runtime/bounded.py", "tests/compiler/test_words.py::test_a_chat_template_cannot_exhaust_the_machine", "    if not is_made:", "    if False:"),
    wrong("any program is ours", "moe_compiler/backend/program.py", "tests/compiler/test_run.py::test_a_program_that_was_edited_is_not_run", "    if not _is_alike(found,", "    if not True and not _is_alike(found,"),
    wrong("a sequence goes on after its end", "moe_compiler/runtime/decoder.py", "tests/compiler/test_run.py::test_sequences_end_where_the_model_ends_them_in_the_middle_of_a_round", "if sequence[n] in ends)", "if False)"),
    # What is said of a compile, and what leaves it.
    wrong("a bound rests on a longest path", f"{SOLVE}/rcpsp/bound.py", f"{RCPSP}/test_bound.py::test_what_a_bound_rests_on_is_said", "Bound(value, LAYERS, slowest) if extra else Bound(value, PATH, -1)", "Bound(value, PATH, -1)", fast=True),
    wrong("a bound rests on any join", f"{SOLVE}/rcpsp/bound.py", f"{RCPSP}/test_bound.py::test_what_a_bound_rests_on_is_said", "if max(end, held) > heads[task]:", "if max(end, held) > 0:", fast=True),
    wrong("a step is always that to the slice", "passes/moe_passes/plan/accounts.py", "tests/compiler/test_explain.py::test_a_step_is_that_of_the_solver", "return bool(splits(slice_worth, self.slice_bytes, whole_worth, self.whole_bytes))", "return True"),
    wrong("KTransformers loses an expert", "moe_compiler/formats/runtimes.py", "tests/compiler/test_export.py::test_ktransformers_keeps_as_many_as_the_plan", "(count + 0.5) / total", "count / total", fast=True),
    noop("other inputs are compared", "moe_compiler/explanation/alternative.py", "tests/compiler/test_explain.py::test_an_alternative_is_not_compared_with_what_was_compiled_of_other_files", "_check_inputs"),
    wrong("no resource is waited for", "moe_compiler/explanation/task.py", "tests/compiler/test_explain.py::test_staging_and_resources_are_waited_for", "for number, other in self._neighbours(order):", "for number, other in ():"),
    wrong("a byte has no price", f"{SOLVE}/residency/solver.py", RESIDENCY, "price = float(self.value[taken]) / float(self.size[taken])", "price = 0.0", fast=True),
    wrong("slack knows no staging", "moe_compiler/explanation/task.py", "tests/compiler/test_explain.py::test_staging_and_resources_are_waited_for", "for number, other in self._staging():", "for number, other in ():"),
    wrong("the cut is elsewhere", "moe_compiler/explanation/expert.py", "tests/compiler/test_explain.py::test_why_is_an_expert_not_near", "step[0] / step[1] >= criterion.price_seconds_per_byte", "step[0] / step[1] >= 2 * criterion.price_seconds_per_byte"),
    wrong("lines of IR become others", "moe_compiler/explanation/ir_diff.py", "tests/compiler/test_explain.py::test_lines_of_ir_are_paired_with_what_they_became", "return _alike(a, b) >= min(ALIKE_LETTERS, len(a), len(b))", "return True"),
    wrong("no load was in vain", "passes/moe_passes/solve/dispatch/online.py", DISPATCH, "return tuple(number for number in wrong if number not in self.dropped)", "return ()", fast=True),
    wrong("names of others end a script", "moe_compiler/report/page.py", "tests/compiler/test_report.py::test_names_of_others_are_text", '.replace("<", "\\\\u003c")', ""),
    wrong("Model Explorer adds drafts up", "moe_compiler/backend/model_explorer.py", "tests/compiler/test_showing.py", "seconds / (length if is_draft else 1)", "seconds"),
    wrong("keys are those that were repeated", "moe_compiler/frontend/captured.py", "tests/compiler/test_dynamo.py::test_what_is_captured_makes_the_plan_of_what_is_traced", "            found = node\n    return found", "            pass\n    return found"),
    wrong("experts begin anywhere", "moe_compiler/frontend/captured.py", "tests/compiler/test_dynamo.py::test_a_joint_is_where_all_that_is_behind_comes_together", "is_shaped and pending and not any(pending.values())", "is_shaped and pending"),
    wrong("any integers are a routing", "passes/moe_passes/ir/foreign.py", "tests/passes/ir/test_foreign.py", "if len(shape) == 2 and shape[1] > 0:", "if shape:", fast=True),
    wrong("the least popular are kept", "passes/moe_passes/ir/passes/keep_popular.py", "tests/passes/ir/test_foreign.py", "np.argsort(-share", "np.argsort(share", fast=True),
    wrong("KTransformers keeps what is most frequent", "moe_compiler/formats/runtimes.py", "tests/compiler/test_export.py::test_ktransformers_keeps_just_the_experts_of_the_plan", "count + lift * is_near", "count + 0 * lift * is_near"),
    wrong("llama.cpp counts from the last layer", "moe_compiler/formats/runtimes.py", "tests/compiler/test_export.py", "if far == numbers[: len(far)] and far:", "if far:"),
    noop("any archive is unpacked", "moe_compiler/formats/statistics.py", "tests/compiler/test_import.py::test_bombs_are_refused_by_their_size", "_check_archive", fast=True),
    wrong("slots are experts", "moe_compiler/formats/statistics.py", "tests/compiler/test_import.py::test_sglangs_records_of_each_token_are_the_profile", "table[rows, np.maximum(chosen, 0)]", "chosen", fast=True),
    wrong("what is drawn is not corrected", "moe_compiler/importing.py", "tests/compiler/test_import.py::test_from_counts_alone_tokens_are_drawn_that_choose_as_often", "weights += 0.5 *", "weights += 0.0 *", fast=True),
    noop("any profile is of this version", "moe_compiler/traces/files.py", "tests/test_versions.py", "_check_schema"),
    noop("a plan may be edited", "moe_compiler/documents/folder.py", "tests/compiler/test_explain.py::test_plans_that_were_edited_are_refused", "_check_plan"),
)  # fmt: skip
