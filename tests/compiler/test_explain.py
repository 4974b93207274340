"""Ten questions about a compile, answered from what it wrote, each checked against the files by another way."""

import json
import shutil
from collections import Counter
from itertools import pairwise

import pytest
from moe_passes.plan.accounts import Criterion

from moe_compiler.documents.folder import read_folder
from moe_compiler.documents.plan import PlanDocument
from moe_compiler.explanation.expert import _step
from moe_compiler.explanation.ir_diff import changes, shortened
from moe_compiler.explanation.task import ScheduledRound
from moe_compiler.hardware.loader import shipped_targets
from moe_compiler.paths import whole
from tests.command import assert_refused, moec
from tests.conftest import write_tiny

COMMON = ("--target", "elmoe3d-4gb", "--context", 64, "--time-limit", 0.5)
ROOM = ("--set", "memories.hb.capacity_gb=0.0003")


@pytest.fixture(scope="module")
def folder(small, tmp_path_factory):
    """A compile of a tiny model that drafts three tokens in memory for a part of its experts."""
    top = tmp_path_factory.mktemp("explain")
    write_tiny(top / "tiny")
    done = moec("compile", top / "tiny", *COMMON, *ROOM, "--draft-length", 3, "-o", top / "out")
    assert done.returncode == 0, done.stderr
    return top / "out"


def read(folder, name):
    return json.loads((folder / f"{name}.json").read_text())


def ask(folder, *options):
    """Return the first answer, and all of its sentences as one text."""
    done = moec("explain", folder, *options, "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)["answers"][0]
    return answer["figures"], " ".join(answer["sentences"])


def overview(folder, question):
    done = moec("explain", folder, "--json")
    answers = {answer["question"]: answer for answer in json.loads(done.stdout)["answers"]}
    return answers[question]["figures"], " ".join(answers[question]["sentences"])


def worth(criterion, counts, expert):
    """What the slice and all of an expert are worth, by the formula of the documentation."""
    share = min(1.0, counts[expert] / sum(counts) * criterion["top_k"])
    needed = 1 - (1 - share) ** criterion["tokens"]
    each = criterion["load_seconds_per_byte"]
    covered = criterion["coverage_weight"] * counts[expert] / sum(counts) * criterion["top_k"]
    sliced = (covered + needed) * criterion["slice_bytes"] * each
    whole = covered * criterion["slice_bytes"] * each
    whole += needed * (criterion["whole_bytes"] * each + criterion["load_latency_seconds"])
    return (sliced if criterion["slice_bytes"] < criterion["whole_bytes"] else whole), whole


def test_why_is_an_expert_not_near(folder):
    plan = read(folder, "plan")
    layer = next(entry for entry in plan["layers"] if "none" in entry["residency"])
    counts = layer["popularity"]
    out = [e for e, level in enumerate(layer["residency"]) if level == "none"]
    expert = max(out, key=lambda e: counts[e])
    figures, text = ask(folder, "--expert", f"{layer['layer']}.{expert}")
    assert "is not near" in text
    assert figures["rank_in_layer"] == 1 + sum(count > counts[expert] for count in counts)
    sliced, whole = worth(plan["criterion"], counts, expert)
    assert figures["slice_worth_seconds"] == pytest.approx(sliced)
    assert figures["whole_worth_seconds"] == pytest.approx(whole)
    # The cut is where it says: with so many tokens the slice is worth the price of a byte, with one less it is not.
    price = plan["criterion"]["price_seconds_per_byte"]
    at_cut = figures["tokens_for_the_cut"]
    for tokens, makes_it in ((at_cut, True), (at_cut - 1, False)):
        changed = [*counts]
        changed[expert] = tokens
        assert (worth(plan["criterion"], changed, expert)[0] / plan["criterion"]["slice_bytes"] >= price) == makes_it
    kept_layer, kept = map(int, figures["last_kept"].split("."))
    row = next(entry for entry in plan["layers"] if entry["layer"] == kept_layer)
    assert row["residency"][kept] != "none"
    assert figures["exchange_seconds"] <= 0
    assert f"{at_cut} tokens instead of {counts[expert]}" in text


def test_an_expert_that_is_near_says_where(folder):
    plan = read(folder, "plan")
    layer, expert = next(
        (entry, e) for entry in plan["layers"] for e, lv in enumerate(entry["residency"]) if lv != "none"
    )
    figures, text = ask(folder, "--expert", f"{layer['layer']}.{expert}")
    assert figures["banks"] == layer["placement"][expert] != []
    assert " near" in text
    assert "bank" in text


def test_why_this_draft_length(folder):
    plan, cost = read(folder, "plan"), read(folder, "cost")
    figures, text = overview(folder, "Why this draft length?")
    assert plan["weighed"][0]["role"] == "chosen"
    assert figures["length"] == plan["weighed"][0]["length"] == cost["draft"]["length"] == 3
    others = {s["length"]: s["seconds"] for s in plan["weighed"] if s["role"] == "dispatched" and s["length"] == 0}
    assert figures["by_length"]["0"]["seconds"] == pytest.approx(min(others.values()))
    record = next(s for s in plan["solvers"] if s["pass"] == "select-draft")
    assert figures["seconds"] == pytest.approx(record["objective"])
    greedy = next(s for s in plan["weighed"] if s["role"] == "greedy")
    assert greedy["seconds"] == pytest.approx(record["greedy"])
    assert "γ = 0" in text
    assert "break" in text


def test_which_task_delays_the_round(folder):
    """The chain has no gap that is not said, and slack is what a task can be late without a longer round."""
    plan = read(folder, "plan")
    figures, text = overview(folder, "Which tasks delay the round?")
    tasks, chain = plan["round"]["tasks"], figures["chain"]
    end = [task["start_seconds"] + task["seconds"] for task in tasks]
    assert max(end) == pytest.approx(figures["makespan_seconds"]) == pytest.approx(end[chain[-1]])
    assert sum(figures["seconds_by_kind"].values()) + figures["waiting_seconds"] == pytest.approx(max(end))
    for first, second in pairwise(chain):
        assert end[first] == pytest.approx(tasks[second]["start_seconds"], abs=1e-9)
    assert f"chain of {len(chain)} tasks" in text


def test_slack_is_what_a_task_can_be_late(folder):
    round_ = ScheduledRound(read_folder(folder).plan)
    tasks = round_.tasks

    def makespan(late, by):
        ends = []
        for task in sorted(tasks, key=lambda t: (t.start_seconds, t.id)):
            start = max([task.start_seconds, *(dict(ends)[b] for b in round_.before[task.id])])
            ends.append((task.id, start + task.seconds + (by if task.id == late else 0.0)))
        return max(end for _, end in ends)

    whole = round_.makespan
    assert makespan(-1, 0.0) == pytest.approx(whole)
    some = [task.id for task in tasks if round_.slack(task.id) > 1e-8][:3] + round_.chain()[:2]
    for number in some:
        slack = round_.slack(number)
        assert makespan(number, slack) == pytest.approx(whole, abs=1e-10)
        assert makespan(number, slack + 1e-7) > whole + 0.5e-7
        figures, text = ask(folder, "--task", number)
        assert figures["slack_seconds"] == pytest.approx(slack)
        assert ("longest chain" in text) == (slack < 5e-10)
        start, finish = figures["start_seconds"], figures["end_seconds"]
        beside = [t.id for t in tasks if t.id != number and t.start_seconds < finish and round_.end(t.id) > start]
        assert figures["meanwhile"] == beside


def test_staging_and_resources_are_waited_for(folder):
    """Two loads of the same bytes of staging, each for a task of its own: the second waits for the first's bytes."""
    plan = read(folder, "plan")
    form = plan["round"]["tasks"][0]
    rows = [  # kind, start, seconds, uses, after
        ("load", 0, 2, ["link"], []),
        ("load", 2, 1, ["link"], []),
        ("expert", 2, 3, ["banks"], [0]),
        ("load", 5, 2, ["link"], []),
        ("expert", 7, 1, ["banks"], [1, 3]),
    ]
    tasks = [
        form | {"id": n, "kind": kind, "start_seconds": float(at), "seconds": float(s), "uses": uses, "after": after}
        for n, (kind, at, s, uses, after) in enumerate(rows)
    ]
    places = ((0, 2, 0), (1, 4, 10), (3, 4, 0))
    staged = [{"first": first, "last": last, "bytes": 10, "offset": offset} for first, last, offset in places]
    round_ = ScheduledRound(
        PlanDocument.model_validate(plan | {"round": {"kind": "x", "tasks": tasks, "staged": staged}}, strict=False)
    )
    before = [{}, {0: "link"}, {0: "its data"}, {1: "link", 2: "staging"}, {1: "its data", 3: "its data", 2: "banks"}]
    assert round_.before == before
    assert round_.chain() == [0, 2, 3, 4]
    assert [round_.slack(n) for n in range(5)] == [0, 2, 0, 0, 0]


def test_what_a_pass_did_and_the_ir_around_it(folder):
    figures, text = ask(folder, "--pass", "partition-experts")
    assert (figures["before"], figures["after"]) == ("02-select-draft.mlir", "03-partition-experts.mlir")
    plan, changed = read(folder, "plan"), "\n".join(figures["changes"])
    copies = sum(len(replicas) for layer in plan["layers"] for replicas in layer["placement"])
    assert f"cut {copies} replicas" in text
    assert "- " in changed
    assert "placement = #moe.open" in changed
    assert "#moe.replica<" in changed
    assert figures["changed_lines"] >= len(plan["layers"])
    assert len(figures["solvers"]) == len(plan["layers"])


def test_which_loads_were_wasted(folder):
    held, cost = read(folder, "held_out"), read(folder, "cost")
    figures, text = overview(folder, "Which loads were wasted?")
    wasted = [load for round_ in held["rounds"] for load in round_["wasted"]]
    assert figures["loads"] == len(wasted) == round(cost["held_out"]["wasted_loads"] * len(held["rounds"]))
    computed = held["kinds"].index("expert")
    for round_ in held["rounds"]:
        tasks = round_["tasks"]
        used = {
            (layer, expert)
            for kind, layer, expert in zip(tasks["kind"], tasks["layer"], tasks["expert"], strict=True)
            if kind == computed
        }
        assert all((load["layer"], load["expert"]) not in used for load in round_["wasted"])
        ends = [start + length for start, length in zip(tasks["start_ns"], tasks["duration_ns"], strict=True)]
        assert round_["seconds"] == pytest.approx(max(ends) * 1e-9)
        assert round_["lower_bound_seconds"] <= round_["clairvoyant_seconds"] <= round_["seconds"] * (1 + 1e-9)
    assert sum(figures["by_layer"].values()) == len(wasted)
    assert text.startswith("None") if not wasted else "in vain" in text


def test_what_differs_at_another_batch(folder, tmp_path):
    """`--why-not` compiles what it says: the same as that compile and `moec diff`."""
    figures, text = ask(folder, "--why-not", "batch=2")
    tiny = folder.parent / "tiny"
    done = moec("compile", tiny, *COMMON, *ROOM, "--draft-length", 3, "--batch", 2, "-o", tmp_path / "two")
    assert done.returncode == 0, done.stderr
    found = json.loads(moec("diff", folder, tmp_path / "two", "--json").stdout)
    for name in ("token_seconds", "difference_seconds", "contributions", "decisions"):
        assert figures[name] == found[name]
    assert {"name": "batch", "a": 1, "b": 2} in figures["request"]
    assert "With batch=2 a token takes" in text


@pytest.mark.parametrize(
    ("asked", "name", "value"),
    [("γ=0", "draft.length", 0), ("bits=8", "draft.bits", 8), ("select-draft.bits=4", "draft.bits", 4)],
)
def test_alternatives_by_short_names(folder, asked, name, value):
    figures, _ = ask(folder, "--why-not", asked)
    decided = {part["name"]: part["b"] for part in figures["decisions"]}
    plan = read(folder, "plan")
    now = {"draft.length": plan["draft"]["length"], "draft.bits": plan["draft"]["bits"]} | decided
    assert now[name] == value
    assert figures["feasible"]


@pytest.mark.parametrize("asked", ["memories.hb.capacity_gb=0.00001", "placer=shard-4"])
def test_an_alternative_that_cannot_be_is_an_answer(folder, asked):
    figures, text = ask(folder, "--why-not", asked)
    assert figures == {"feasible": False}
    assert text.startswith("It cannot be: ")
    assert "fit" in text


def test_where_energy_goes_by_phase_and_layer(folder):
    cost = read(folder, "cost")
    figures, text = overview(folder, "Where does the energy go?")
    dynamic = sum(entry["joules"] for entry in figures["by_layer"])
    assert dynamic + cost["joules_by_part"]["static"] == pytest.approx(cost["round"]["joules"])
    assert sum(figures["by_phase"].values()) == pytest.approx(dynamic)
    assert {entry["phase"] for entry in figures["by_layer"]} == {"draft", "verify"}
    assert {entry["layer"] for entry in figures["by_layer"]} == {0, 1, 2, 3}
    assert "By phase" in text


def test_which_bound_is_active(folder):
    held, cost = read(folder, "held_out"), read(folder, "cost")
    figures, text = ask(folder, "--bound")
    counted = Counter(round_["limit"] for round_ in held["rounds"])
    assert figures["limits"] == dict(counted)
    assert figures["active"] == counted.most_common(1)[0][0] != ""
    has_knob = cost["roofline_fraction"] >= 0.5
    assert figures["knob"] == (cost["limited_by_field"] if has_knob else None)
    assert ("The knob is" in text) == has_knob
    assert cost["limited_by_field"] in text
    ranked = sorted(cost["roofline_seconds"].values(), reverse=True)
    assert figures["doubled_seconds"] == pytest.approx(max(ranked[0] / 2, ranked[1]))


def test_how_sure_it_is(folder):
    cost, record = read(folder, "cost"), read(folder, "compile")
    figures, text = overview(folder, "How sure is it?")
    assert figures["ci95_seconds"] == cost["token"]["ci95_seconds"]
    assert figures["profile_kind"] == "synthetic"
    assert "synthetic" in text
    assert figures["assumed"] == record["assumed"]
    assert "memories.hb.latency_ns" in figures["assumed"]
    assert cost["draft"]["acceptance_source"] in text


def test_people_read_the_same(folder):
    text = moec("explain", folder).stdout
    assert text.count("\n\n") == 6
    assert "Why can it not be faster?" in text
    assert "\n  " in moec("explain", folder, "--pass", "select-draft").stdout


def test_what_is_not_there_is_refused(folder, tmp_path):
    for options, words in (
        (["--expert", "99.0"], ["layer 99 has no routed experts", "valid: 0, 1"]),
        (["--expert", "0.99"], ["has experts 0 to 15"]),
        (["--expert", "a"], ["valid: LAYER.EXPERT"]),
        (["--task", -1], ["has tasks 0 to"]),
        (["--pass", "no-pass"], ["no snapshot of it"]),
        (["--why-not", "gama=3"], ["unknown", "gamma"]),
        (["--why-not", "γ"], ["valid: PATH=VALUE"]),
        (["--why-not", "batch=many"], ["valid: a number"]),
        (["--why-not", "select-draft.nothing=1"], ["unknown option 'nothing'"]),
        (["--why-not", "memories.none.capacity_gb=1"], ["memories.none"]),
        (["--why-not", "γ=many"], ["--draft-length many"]),
    ):
        assert_refused(moec("explain", folder, *options), *words)
    assert_refused(moec("explain", tmp_path), "is no compile of ours")
    old = tmp_path / "old"
    shutil.copytree(folder, old)
    (old / "held_out.json").unlink()
    assert_refused(moec("explain", old), "held_out.json", "earlier version", "compile again")
    record = read(folder, "compile") | {"arguments": None}
    (old / "compile.json").write_text(json.dumps(record))
    assert_refused(moec("explain", old, "--why-not", "γ=0"), "earlier version")


def test_a_folder_of_before_there_were_accounts_is_read(folder, tmp_path):
    """Keys that came later have a default; what they are needed for says so."""
    shutil.copytree(folder, tmp_path / "old")
    plan = read(folder, "plan")
    del plan["weighed"], plan["criterion"]
    for layer in plan["layers"]:
        del layer["popularity"]
    for solver in plan["solvers"]:
        del solver["limit"]
    (tmp_path / "old" / "plan.json").write_text(json.dumps(plan))
    assert "no account of what was weighed" in moec("explain", tmp_path / "old").stdout
    assert_refused(moec("explain", tmp_path / "old", "--expert", "0.0"), "keeps no account", "compile again")
    assert moec("diff", folder, tmp_path / "old").stdout.splitlines()[-1] == "nothing differs"


def test_plans_that_were_edited_are_refused(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "edited")
    plan = read(folder, "plan")
    tasks, staged = plan["round"]["tasks"], plan["round"]["staged"]
    for part, words in (
        ({"round": plan["round"] | {"tasks": [tasks[0] | {"after": [5]}, *tasks[1:]]}}, "round.tasks.0"),
        ({"round": plan["round"] | {"tasks": [tasks[0] | {"id": 7}, *tasks[1:]]}}, "round.tasks.0"),
        ({"round": plan["round"] | {"staged": [staged[0] | {"last": len(tasks)}]}}, "round.staged.0"),
        ({"layers": [plan["layers"][0] | {"popularity": [1]}, *plan["layers"][1:]]}, "layers.0.popularity"),
        ({"layers": [*plan["layers"][:1], plan["layers"][1] | {"popularity": []}]}, "layers.1.popularity"),
        ({"layers": [plan["layers"][0] | {"needed_permille": []}, *plan["layers"][1:]]}, "layers.0.needed_permille"),
        ({"layers": []}, "layers"),
        ({"weighed": [plan["weighed"][0] | {"seconds": 0.0}]}, "weighed.0.seconds"),
        ({"criterion": plan["criterion"] | {"slice_bytes": 0}}, "criterion.slice_bytes"),
        ({"target": "x\necho PWNED #"}, "control characters"),
        ({"model": "\x1b[2J"}, "control characters"),
        ({"banks": 10**9}, "banks"),
        ({"batch": -3}, "batch"),
        ({"decoder_layers": 10**11}, "decoder_layers"),
        ({"decoder_layers": 1}, "below decoder_layers, 1"),
        ({"layers": [plan["layers"][0] | {"popularity": [10**30] * 16}, *plan["layers"][1:]]}, "popularity"),
    ):
        (tmp_path / "edited" / "plan.json").write_text(json.dumps(plan | part))
        assert_refused(moec("explain", tmp_path / "edited", "--task", 0), words)


def test_tasks_of_no_time_that_wait_for_each_other_end_the_chain(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "edited")
    plan = read(folder, "plan")
    task = plan["round"]["tasks"][0] | {"uses": ["r"], "seconds": 0.0}
    tasks = [task | {"start_seconds": 1e-10}, task | {"id": 1, "start_seconds": 0.0, "after": [0]}]
    (tmp_path / "edited" / "plan.json").write_text(
        json.dumps(plan | {"round": {"kind": "x", "tasks": tasks, "staged": []}})
    )
    figures, _ = overview(tmp_path / "edited", "Which tasks delay the round?")
    assert sorted(figures["chain"]) == [0, 1]


def test_a_report_replaces_no_file_of_the_compile(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "out")
    plan = tmp_path / "out" / "plan.json"
    assert_refused(moec("report", tmp_path / "out", "-o", plan), "is a file of the compile")
    assert_refused(moec("export", tmp_path / "out", "--to", "neutral", "-o", plan), "is a file of the compile")
    assert plan.read_text() == (folder / "plan.json").read_text()


def test_costs_that_were_edited_are_refused(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "edited")
    cost = read(folder, "cost")
    for part, words in (
        ({"roofline_seconds": {}}, "roofline_seconds"),
        ({"round": cost["round"] | {"seconds": 0.0}}, "round.seconds"),
        ({"token": cost["token"] | {"seconds": -1.0}}, "token.seconds"),
    ):
        (tmp_path / "edited" / "cost.json").write_text(json.dumps(cost | part))
        assert_refused(moec("explain", tmp_path / "edited"), words)
    (tmp_path / "edited" / "cost.json").write_text(json.dumps(cost | {"round": cost["round"] | {"joules": 0.0}}))
    assert "Energy is not known" in moec("explain", tmp_path / "edited").stdout


def test_an_alternative_is_not_compared_with_what_was_compiled_of_other_files(tmp_path, small):
    write_tiny(tmp_path / "tiny")
    options = ("--target", "elmoe3d-4gb", "--context", 64, "--draft-length", 2, "--time-limit", 0.5)
    assert moec("compile", tmp_path / "tiny", *options, "-o", tmp_path / "out").returncode == 0
    config = tmp_path / "tiny" / "config.json"
    config.write_text(config.read_text() + " ")
    assert_refused(moec("explain", tmp_path / "out", "--why-not", "seed=1"), "is not what it was", "compile again")


def test_what_is_shipped_goes_before_what_lies_about(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elmoe3d-4gb").mkdir()
    assert whole("elmoe3d-4gb", shipped_targets()) == "elmoe3d-4gb"
    assert whole("elmoe3d-4gb") == str(tmp_path / "elmoe3d-4gb")


def test_a_step_is_that_of_the_solver():
    """Latency makes the whole of an expert worth more a byte than its slice: then it is kept in one step."""
    both = Criterion(2, 8, 100, 200, 0.0, 1e-9, 1e-3, False, 1000)
    assert not both.is_split(1e-7, 1e-3)
    assert _step(both, 0, 1e-7, 1e-3) == (1e-3, 200, "all of it")
    assert _step(both, 0, 1e-3, 1.5e-3) == (1e-3, 100, "its slice")
    assert _step(both, 1, 1e-3, 1.5e-3) == (0.5e-3, 100, "the rest of it")


def test_lines_of_ir_are_paired_with_what_they_became():
    before = "same\n  op_of_a_long_name {a = 1, b = open}\ngone\nend"
    after = "same\n  made\n  op_of_a_long_name {a = 1, b = <3>}\nend"
    assert [tuple(change) for change in changes(before, after)] == [
        (None, "  made"),
        ("  op_of_a_long_name {a = 1, b = open}", "  op_of_a_long_name {a = 1, b = <3>}"),
        ("gone", None),
    ]
    assert changes(before, before) == []
    long = "x" * 500
    [change] = changes(f"{long}a{long}", f"{long}b{long}")
    assert all(line.startswith("x" * 60 + " … ") and len(line) < 250 for line in shortened(change))
    assert [line[123] for line in shortened(change)] == ["a", "b"]
