"""Acceptance that was measured: options, files, arrays of a profile, and what a compile makes of them."""

import json

import numpy as np
import pytest
from moe_passes.plan.errors import InputError

from moe_compiler.traces.acceptance import of_arrays, of_file, of_rate
from tests.command import assert_refused, moec


def test_an_alpha_is_of_the_length_that_is_asked_for_or_of_six():
    assert (of_rate(0.8, 3).rate, of_rate(0.8, 3).length) == (0.8, 3)
    assert of_rate(0.8, -1).length == of_rate(0.8, 0).length == 6
    assert of_rate(0.8, 3).source == "given: --alpha 0.8 at 3 drafted tokens"
    for wrong in (-0.1, 1.1, float("nan"), True):
        with pytest.raises(InputError, match="a number from 0 to 1"):
            of_rate(wrong, 3)


def test_accepted_lengths_are_counts_of_rounds_by_hand(tmp_path):
    """Of ten rounds two accepted nothing, three one token and five two: 0.8 accept one at least, 0.5 two."""
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"accepted_lengths": [2, 3, 5]}))
    (found,) = of_file(str(path))
    assert found.survival_ppm == (800_000, 500_000)
    assert (found.length, found.rate, found.expert_bits) == (2, pytest.approx(0.65), 0)
    assert found.source == "measured: mine.json"
    np.savez(tmp_path / "mine.npz", accepted_lengths=np.array([2, 3, 5]))
    assert of_file(str(tmp_path / "mine.npz"))[0].survival_ppm == found.survival_ppm


def test_configurations_tell_drafts_apart():
    found = of_arrays(
        {"accepted_lengths": np.array([[1, 1], [1, 3]]), "draft_configurations": np.array([[4, 4, 0.5], [8, 4, 0.2]])},
        "f",
    )
    assert [(m.expert_bits, m.dense_bits, m.share, m.survival_ppm) for m in found] == [
        (4, 4, 0.5, (500_000,)),
        (8, 4, 0.2, (750_000,)),
    ]


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({}, "holds no 'accepted_lengths'"),
        ([1, 2], "holds no 'accepted_lengths'"),
        ({"accepted_lengths": "much"}, "no array of numbers"),
        ({"accepted_lengths": [[1, 2], [3]]}, "no array of numbers"),
        ({"accepted_lengths": [5]}, "2 to 65"),
        ({"accepted_lengths": [1] * 66}, "2 to 65"),
        ({"accepted_lengths": [1.5, 2]}, "whole numbers"),
        ({"accepted_lengths": [-1, 2]}, "whole numbers"),
        ({"accepted_lengths": [0, 0]}, "some in every row"),
        ({"accepted_lengths": [[1, 1], [2, 2]]}, "to tell them apart"),
        ({"accepted_lengths": [[1, 1]], "draft_configurations": [[4, 4]]}, "[configuration, 3]"),
        ({"accepted_lengths": [[1, 1]], "draft_configurations": [[5, 4, 0.5]]}, "4 or 8"),
        ({"accepted_lengths": [[1, 1]], "draft_configurations": [[4, 4, 1.5]]}, "0 to 1"),
    ],
)
def test_a_malformed_file_is_refused(tmp_path, document, words):
    path = tmp_path / "wrong.json"
    path.write_text(json.dumps(document))
    with pytest.raises(InputError, match=r"wrong\.json") as error:
        of_file(str(path))
    assert words in str(error.value)


BASE = ("--target", "elmoe3d-4gb", "--set", "memories.hb.capacity_gb=0.00026", "--context", 64, "--time-limit", 0.1)
TRACE = ("--profile", "synthetic-400tokens-seed0")


def compiled(folder, tmp_path, *options):
    run = moec("compile", folder, *BASE, *options, "--json", "-o", tmp_path / "out")
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def test_a_given_alpha_decides(tiny, tmp_path):
    cost = compiled(tiny(), tmp_path, *TRACE, "--draft-length", 3, "--alpha", 0.5)
    assert cost["draft"]["acceptance_rate"] == pytest.approx(0.5)
    assert cost["draft"]["acceptance_source"] == "given: --alpha 0.5 at 3 drafted tokens"
    assert cost["round"]["tokens"] == pytest.approx(1 + 1.5)


def test_measured_lengths_bound_the_draft(tiny, tmp_path):
    path = tmp_path / "measured.json"
    path.write_text(json.dumps({"accepted_lengths": [1, 0, 99]}))
    cost = compiled(tiny(), tmp_path, *TRACE, "--accepted-lengths", path)
    assert cost["draft"]["length"] <= 2
    run = moec("compile", tiny(), *BASE, *TRACE, "--accepted-lengths", path, "--draft-length", 3, "-o", tmp_path / "no")
    assert_refused(run, "--draft-length 3", "valid: auto, or 0 to 2")


def test_a_profile_may_hold_accepted_lengths_and_options_come_first(tiny, tmp_path):
    random = np.random.default_rng(0)
    experts = random.random((400, 3, 16)).argsort(axis=2)[..., :4]
    np.savez(tmp_path / "mine.npz", experts=experts, accepted_lengths=[1, 1, 2])
    options = ("--profile", tmp_path / "mine.npz", "--draft-length", 2)
    cost = compiled(tiny(), tmp_path, *options)
    assert cost["draft"]["acceptance_rate"] == pytest.approx((0.75 + 0.5) / 2)
    assert cost["draft"]["acceptance_source"] == "measured: mine.npz"
    (tmp_path / "out").rename(tmp_path / "before")
    assert compiled(tiny(), tmp_path, *options, "--alpha", 0.9)["draft"]["acceptance_rate"] == pytest.approx(0.9)


def test_only_one_of_both_is_taken(tiny, tmp_path):
    run = moec("compile", tiny(), *BASE, "--alpha", 0.5, "--accepted-lengths", "x.json", "-o", tmp_path / "out")
    assert_refused(run, "--alpha and --accepted-lengths")


def test_a_prompt(tiny, tmp_path):
    cost = compiled(tiny(), tmp_path, *TRACE, "--prompt-tokens", 100, "--draft-length", 0)
    assert cost["prefill"]["prompt_tokens"] == 100
    assert cost["prefill"]["seconds"] > cost["token"]["seconds"]
    run = moec("compile", tiny(), *BASE, *TRACE, "--prompt-tokens", 0, "-o", tmp_path / "no")
    assert_refused(run, "--prompt-tokens 0", "1 to 1,000,000")
