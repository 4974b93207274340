"""A trained model is run: exact text, the memory of the plan, what is measured, and what is refused."""

import errno
import json
import shutil
import threading

import pytest
import torch
from moe_passes.plan.errors import InputError
from torch.overrides import TorchFunctionMode
from transformers import AutoModelForCausalLM

from moe_compiler.backend.program import check_is_ours
from moe_compiler.generation import Asked, Runner
from moe_compiler.runtime.decoder import Decoder, generate, plain_round
from moe_compiler.runtime.model import from_store
from moe_compiler.runtime.plan import Plan
from moe_compiler.runtime.reader import ReaderEndedError
from moe_compiler.runtime.store_file import StoreFile
from tests.command import assert_refused, moec
from tests.compiler.test_interrupts import interrupted
from tests.decoded import check_arrows, decode
from tests.running import PROMPTS, run


@pytest.mark.parametrize("prompts", [PROMPTS[:1], PROMPTS])
def test_greedy_text_is_that_of_decoding_one_token_at_a_time(folder, store, prompts):
    """Prompts of 7, 19 and 1 tokens, whose sequences are decoded together."""
    done = run(folder, store, "--check", "--json", prompts=prompts)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["check"] == "equal"
    assert [sequence["prompt"] for sequence in found["sequences"]] == list(prompts)
    assert all(len(sequence["token_ids"]) == 24 for sequence in found["sequences"])
    assert found["draft_length"] == 3
    assert 0.2 < found["acceptance_rate"] < 1
    assert found["rounds"] < 24
    assert found["bytes_loaded"] > 0
    assert found["far_bandwidth_gb_s"] is None
    assert found["is_emulated"] is False
    assert found["tokens_per_second"] > 0 < found["peak_bytes"]
    assert set(found) >= {"load_seconds", "hidden_load_seconds", "rounds"}


def test_the_text_is_that_of_transformers_on_the_unpacked_checkpoint(folder, store, tmp_path):
    assert moec("unpack", store, "-o", tmp_path / "whole").returncode == 0
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "whole", dtype=torch.float32)
    words = Runner.open(folder, store).words
    found = json.loads(run(folder, store, "--json", prompts=PROMPTS).stdout)
    for prompt, sequence in zip(PROMPTS, found["sequences"], strict=True):
        ids = words.encode(prompt)
        expected = model.generate(torch.tensor([ids]), max_new_tokens=24, do_sample=False)[0, len(ids) :].tolist()
        assert sequence["token_ids"] == expected
        assert sequence["text"] == words.decode(expected)


class _Rounding(TorchFunctionMode):
    """Rounds what `linear` multiplies with to 8 bits, in groups of 32."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is not torch.nn.functional.linear:
            return function(*args, **(kwargs or {}))
        rows, *rest = args
        groups = rows.reshape(*rows.shape[:-1], rows.shape[-1] // 32, 32)
        steps = groups.abs().amax(dim=-1, keepdim=True) / 127
        near = torch.where(steps > 0, torch.round(groups / steps) * steps, groups)
        return function(near.reshape(rows.shape), *rest, **(kwargs or {}))


def test_activations_of_8_bits_have_a_witness_of_their_own(folder, store, tmp_path):
    """Decoding one token at a time with the same rounding, here and by transformers; and it is not float32's text."""
    found = json.loads(
        run(folder, store, "--activation-bits", 8, "--check", "--json", prompts=PROMPTS, tokens=96).stdout
    )
    assert (found["activation_bits"], found["check"]) == (8, "equal")
    assert json.loads((folder / "measured.json").read_text())["activation_bits"] == 8
    plain = json.loads(run(folder, store, "--json", prompts=PROMPTS, tokens=96).stdout)
    assert plain["activation_bits"] == 32
    assert found["sequences"] != plain["sequences"]
    assert moec("unpack", store, "-o", tmp_path / "whole").returncode == 0
    how = {"dtype": torch.float32, "experts_implementation": "eager"}
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "whole", **how)
    words = Runner.open(folder, store).words
    for prompt, sequence in zip(PROMPTS, found["sequences"], strict=True):
        ids, new = words.encode(prompt), torch.tensor(sequence["token_ids"])
        with _Rounding(), torch.no_grad():
            logits = model(torch.tensor([[*ids, *new[:-1].tolist()]])).logits[0, len(ids) - 1 :]
        # A value half way between two steps may be rounded either way, so ties are wider than those of float32.
        behind = logits.amax(dim=1) - logits.gather(1, new[:, None])[:, 0]
        assert behind.max() < 0.05 < 0.02 * logits.std()
        assert (behind == 0).sum() >= 94


def test_sequences_end_where_the_model_ends_them_in_the_middle_of_a_round(store):
    """Whatever token is said to end a sequence, it ends there, with γ = 3 as with γ = 0, and the others go on."""
    model = from_store(StoreFile(store))
    resident = {part.layer: list(range(0, 16, 2)) for part in model.experts}
    every = {part.layer: list(range(16)) for part in model.experts}
    prompts = [[5, 9, 11], [40], [7] * 20]

    def round_(decoder):
        drafts = []
        for step in range(3):
            drafts.append(decoder.draft(step, drafts))
        decoder.verify(drafts)
        decoder.release_staging()

    def made(plan, how, ends):
        decoder = Decoder(model, plan, prompts, 80)
        found = generate(decoder, how, 20, frozenset(ends))
        decoder.close()
        return found

    free = made(Plan(staging_slots=2), plain_round, ())
    assert [len(tokens) for tokens in free] == [20] * 3
    for end in {free[0][6], free[1][9], free[2][2]}:
        expected = [tokens[: tokens.index(end) + 1] if end in tokens else tokens for tokens in free]
        assert made(Plan(staging_slots=2), plain_round, [end]) == expected
        assert made(Plan(staging_slots=3, resident=resident, dense_bits=4), round_, [end]) == expected
        # With the target itself for a draft every round brings four tokens, and an end stands among them.
        assert made(Plan(draft_bits=8, resident=every, whole=every), round_, [end]) == expected


def test_slow_reads_are_emulated_and_said_to_be(folder, store):
    done = run(folder, store, "--far-bandwidth", 0.02, "--json", tokens=6)
    found = json.loads(done.stdout)
    assert found["is_emulated"] is True
    assert found["load_seconds"] >= found["bytes_loaded"] / 0.02e9
    assert 0 <= found["hidden_load_seconds"] <= found["load_seconds"]
    assert "emulated" in run(folder, store, "--far-bandwidth", 1, tokens=2).stderr


def test_staging_and_residents_take_what_the_plan_says(folder, store):
    runner = Runner.open(folder, store)
    found = runner.run(PROMPTS, Asked(16))
    plan = json.loads((folder / "plan.json").read_text())
    # Pieces lie in whole pages: a slice takes 11 of them instead of 10.1, the rest 9.
    assert found["staging_bytes"] <= 1.25 * plan["draft"]["staging_bytes"]
    assert found["near_bytes"] <= 1.1 * plan["hb"]["expert_bytes"]


def test_what_was_measured_has_the_form_of_what_was_predicted(folder, store):
    found = json.loads(run(folder, store, "--json", "--far-bandwidth", 0.05, prompts=PROMPTS).stdout)
    measured, cost = (json.loads((folder / f"{name}.json").read_text()) for name in ("measured", "cost"))
    for name in ("model", "batch"):
        assert measured[name] == cost[name]
    assert measured["round"].keys() - cost["round"].keys() == {"rounds", "draft_seconds", "verify_seconds"}
    assert measured["token"].keys() <= cost["token"].keys()
    assert measured["bytes"].keys() <= cost["bytes"].keys()
    assert measured["draft"].keys() <= cost["draft"].keys()
    assert measured["is_emulated"] is True
    round_, length = measured["round"], measured["draft"]["length"]
    assert round_["ci95_seconds"][0] <= round_["seconds"] <= round_["ci95_seconds"][1]
    assert round_["draft_seconds"] + round_["verify_seconds"] == pytest.approx(round_["seconds"])
    assert measured["token"]["seconds"] == pytest.approx(round_["seconds"] / round_["tokens"])
    assert 0 < round_["rounds"] <= found["rounds"]
    assert 0 < measured["busy_fraction"]["external"] < 1 > measured["busy_fraction"]["engine"] > 0
    assert measured["predicted"]["round_seconds"] == cost["round"]["seconds"]
    assert measured["predicted"]["error"] == pytest.approx(cost["round"]["seconds"] / round_["seconds"] - 1)
    assert found["measured"] == str(folder / "measured.json")
    tracks, slices, counters = decode((folder / "measured.perfetto-trace").read_bytes())
    assert {"rounds", "phases", "external", "engine"} <= set(tracks)
    rounds = [part for part in slices if part.track == "rounds"]
    assert len(rounds) == found["rounds"]
    phases = [part.name for part in slices if part.track == "phases"]
    assert phases == [*(f"draft {n + 1}" for n in range(length)), "verify"] * found["rounds"]
    # The engine is busy all the time, but for waits and what no span is of; in a draft step there are no waits.
    for phase in (part for part in slices if part.track == "phases" and part.name != "verify"):
        within = [p for p in slices if p.track == "engine" and phase.start <= p.start and p.end <= phase.end]
        assert sum(p.end - p.start for p in within) > 0.9 * (phase.end - phase.start)
    loads = [part for part in slices if part.name.startswith("load")]
    assert 0 < sum(part.details["bytes"] for part in loads) <= found["bytes_loaded"]
    assert {part.details["wasted"] for part in loads} == {"true", "false"}
    used = [part for part in loads if part.details["wasted"] == "false"]
    assert 0 < check_arrows(slices) == len(used)
    # Nothing runs faster than the throttle lets it.
    first, last = min(part.start for part in loads), max(part.end for part in loads)
    assert sum(part.details["bytes"] for part in loads) < 0.05 * (last - first)
    assert counters["bandwidth of the far memory"][-1][1] == 0
    waits = sum(part.end - part.start for part in slices if part.name.startswith("wait"))
    assert waits * 1e-9 <= found["load_seconds"]


def test_what_was_generated_is_not_lost_where_nothing_can_be_written(folder, store, tmp_path, monkeypatch):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "measured.json").unlink(missing_ok=True)

    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("moe_compiler.backend.folder.tempfile.mkstemp", full)
    found = Runner.open(copy, store).run(PROMPTS[:1], Asked(4))
    assert found["sequences"][0]["text"]
    assert found["measured"] is None
    assert not (copy / "measured.json").exists()


def test_one_sequence_is_not_compared_with_what_was_predicted_of_three(folder, store):
    assert run(folder, store, tokens=4).returncode == 0
    assert json.loads((folder / "measured.json").read_text())["predicted"] is None


def test_drawn_text_depends_on_the_seed_alone(folder, store):
    def text(seed):
        done = run(folder, store, "--sample", "--temperature", 0.9, "--top-p", 0.9, "--seed", seed, prompts=PROMPTS[:2])
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert text(1) == text(1) != text(2)


def test_text_streams_as_it_is_made(folder, store):
    heard = []
    runner = Runner.open(folder, store)
    found = runner.run(PROMPTS[:1], Asked(12), lambda number, text: heard.append(text))
    assert len(heard) > 2
    assert "".join(heard) == found["sequences"][0]["text"]


def test_prompts_from_files(folder, store, tmp_path):
    (tmp_path / "prompt.txt").write_text(PROMPTS[1])
    file = ("--prompt-file", tmp_path / "prompt.txt", "--max-new-tokens", 8, "--json")
    found = json.loads(moec("run", folder, "--weights", store, *file).stdout)
    assert found["sequences"][0]["prompt"] == PROMPTS[1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--prompt", "", "--max-new-tokens", 4), ["prompt 1 is empty"]),
        (("--prompt", "x" * 2000, "--max-new-tokens", 4), ["more than the context of 256", "--context"]),
        (("--prompt", "x", "--max-new-tokens", 300), ["more than the context of 256"]),
        ([*["--prompt", "x"] * 4, "--max-new-tokens", 4], ["4 prompts; valid: 1 to 3"]),
        (("--max-new-tokens", 4), ["--prompt TEXT"]),
        (("--prompt", "x", "--chat", "--max-new-tokens", 4), ["--prompt TEXT"]),
        (("--chat", "--max-new-tokens", 4), ["no chat template"]),
        (("--prompt", "x", "--max-new-tokens", 0), ["--max-new-tokens 0"]),
        (("--prompt", "x", "--max-new-tokens", 4, "--sample", "--temperature", 0), ["--temperature 0"]),
        (("--prompt", "x", "--max-new-tokens", 4, "--sample", "--top-p", 2), ["--top-p 2"]),
        (("--prompt", "x", "--max-new-tokens", 4, "--sample", "--check"), ["--check with --sample"]),
        (("--prompt", "x", "--max-new-tokens", 4, "--sample", "--seed", 10**13), ["--seed 10000000000000"]),
        (("--prompt", "x", "--max-new-tokens", 4, "--far-bandwidth", -1), ["--far-bandwidth -1"]),
        (("--prompt", "x", "--max-new-tokens", 4, "--activation-bits", 4), ["--activation-bits 4; valid: 32 or 8"]),
        (("--prompt-file", "nowhere.txt", "--max-new-tokens", 4), ["nowhere.txt: cannot be read"]),
    ],
)
def test_what_cannot_be_generated_is_refused(folder, store, options, words):
    assert_refused(moec("run", folder, "--weights", store, *options), *words)


def test_a_folder_that_is_no_compile_is_refused(folder, store, tmp_path):
    assert_refused(run(tmp_path, store), "is no compile of ours")
    assert_refused(run(folder, tmp_path / "no.store"), "no such store")
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    for content in (b"no archive", b"PK\3\4 no archive either"):
        (broken / "plan.npz").write_bytes(content)
        assert_refused(run(broken, store), "plan.npz")
    plan = json.loads((folder / "plan.json").read_text())
    for change, words in (
        ({"schema": 9}, ["is of schema 9", "compile again"]),
        ({"context": float("inf")}, ["plan.json"]),
        ({"draft": {**plan["draft"], "length": 5}}, ["its length is not that of plan.json"]),
        ({"layers": []}, ["plan.json: layers", "at least 1"]),
    ):
        (broken / "plan.json").write_text(json.dumps({**plan, **change}))
        assert_refused(run(broken, store), *words)


def test_a_conversation_goes_on_with_what_is_near(folder, store, monkeypatch):
    """After an answer that failed nobody knows what that is, so residents are read again."""
    runner = Runner.open(folder, store)
    monkeypatch.setattr(runner.words, "chat", lambda said: said[-1]["content"])
    said, asked = [{"role": "user", "content": PROMPTS[1]}], Asked(8)
    expected = runner.answer(said, asked)
    with monkeypatch.context() as patch:
        patch.setattr("moe_compiler.runtime.store.Near", None)
        assert runner.answer(said, asked) == expected
        patch.setattr(runner, "round_", None)
        with pytest.raises(TypeError):
            runner.answer(said, asked)
    assert runner.near is None
    assert runner.answer(said, asked) == expected


def test_the_same_prompts_and_seed_get_the_same_run_whatever_was_run_before(folder, store):
    runner, asked = Runner.open(folder, store), Asked(24, temperature=1.0)
    first, _, second = (runner.run([prompt], asked) for prompt in (PROMPTS[1], PROMPTS[0], PROMPTS[1]))
    same = ("sequences", "bytes_loaded", "acceptance_rate", "rounds")
    assert [first[name] for name in same] == [second[name] for name in same]


def test_a_thread_that_dies_is_our_bug_and_nothing_hangs(folder, store, monkeypatch):
    """Whatever it dies of is the cause that is shown."""

    def dies(self):
        raise KeyError("made to die")

    runner, threads = Runner.open(folder, store), threading.active_count()
    monkeypatch.setattr("moe_compiler.runtime.reader.Reader._serve", dies)
    with pytest.raises(ReaderEndedError, match="the thread that loads experts has ended") as raised:
        runner.run(PROMPTS[:1], Asked(4))
    assert isinstance(raised.value.__cause__, KeyError)
    assert threading.active_count() == threads


@pytest.mark.parametrize(
    "error",
    [MemoryError(), OSError(errno.ENOMEM, "no"), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")],
)
@pytest.mark.parametrize("where", ["store_file.StoreFile.rooms", "kernels.Kernels._cache"])
def test_too_little_memory_is_said(folder, store, monkeypatch, error, where):
    def fails(*arguments):
        raise error

    runner = Runner.open(folder, store)
    monkeypatch.setattr(f"moe_compiler.runtime.{where}", fails)
    with pytest.raises(InputError, match=r"out of memory: there is no room for .* valid: a compile for a smaller near"):
        runner.run(PROMPTS[:1], Asked(4))


@pytest.mark.parametrize("after", [0.5, 3.0, 8.0])
def test_an_interrupt_ends_a_run_and_its_threads(folder, store, after, tmp_path):
    """While it opens the store, reads the prompt, or generates: at 0.0002 GB/s a load takes half a second."""
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("measured*"))
    options = ("--prompt", "x", "--max-new-tokens", 200, "--far-bandwidth", 0.0002)
    code, message = interrupted(["run", copy, "--weights", store, *options], after)
    assert code == 130
    assert message.splitlines()[-1].startswith("moec: interrupted")
    assert not list(copy.glob("*measured*"))


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: text + "\nimport os\n",
        lambda text: text.replace("decoder.begin_round()", "print(1)"),
        lambda text: text.replace("def round_(decoder: Decoder)", "def round_(decoder: print(1))"),
        lambda text: text.replace("DRAFT_LENGTH = 3", "DRAFT_LENGTH = __import__('os').getpid()"),
        lambda text: text.replace("DRAFT_LENGTH = 3", "DRAFT_LENGTH = '3'"),
        lambda text: text.replace("CARRIED = (", "CARRIED = (print(1),"),
        lambda text: text.replace("accepted = decoder.verify", "accepted = eval"),
        lambda text: text.replace("from moe_compiler.runtime.main import main", "from os import system as main"),
        lambda text: text.replace("def round_", "@print\ndef round_"),
        lambda text: text.replace('"__main__"', '"schedule"'),
        lambda text: "def" + text,
        lambda text: "(" * 5000,
        lambda text: "\0",
    ],
)
def test_a_program_that_was_edited_is_not_run(folder, edit):
    text = (folder / "schedule.py").read_text()
    check_is_ours(text, "schedule.py")
    check_is_ours(text.replace("DRAFT_LENGTH = 3", "DRAFT_LENGTH = 2"), "schedule.py")
    assert edit(text) != text
    with pytest.raises(InputError, match=r"schedule\.py: is no"):
        check_is_ours(edit(text), "schedule.py")
