import tracemalloc

import numpy as np
import pytest
from moe_passes.plan.errors import InputError
from moe_passes.plan.model import ExpertLayer
from moe_passes.plan.request import DRAFT_LENGTH
from moe_passes.routing.statistics import statistics
from moe_passes.routing.traces import cut_rounds, membership, restrict, split_of
from moe_passes.solve.draft.prepare import RULES
from moe_passes.solve.hot_set.follow import HotSet

from moe_compiler.traces import like, synthetic
from moe_compiler.traces.files import check_exists, load, synthetic_name
from tests.conftest import public_data


def layers(count, experts, top_k):
    return [ExpertLayer(f"layer{n}", n, experts, top_k, 10, 5, 5) for n in range(count)]


MIXTRAL = layers(32, 8, 2)


def test_a_public_trace_is_real_and_fits_mixtral():
    profile = load(str(public_data("mixtral-8x7b-coding.npz")), MIXTRAL)
    assert profile.record.kind == "real"
    assert profile.record.draft_routing == "assumed"
    assert profile.trace.tokens > 8000


def test_without_a_profile_a_synthetic_one_is_made_that_is_like_the_model_and_says_so():
    assert synthetic_name("mixtral-8x7b", 1, 7) == "synthetic-3072tokens-seed7-like-mixtral-8x7b"
    assert synthetic_name("phi-3.5-moe", 16, 0) == "synthetic-16384tokens-seed0-like-middle"
    assert synthetic_name("gpt-oss-20b", 64, 0) == "synthetic-18432tokens-seed0-like-gpt-oss-20b-requests-of-64"
    assert load(synthetic_name("mine", 1, 0), layers(2, 8, 2)).record.kind == "synthetic"


@pytest.mark.parametrize("batch", [1, 4, 11, 16, 64, 4096])
def test_synthetic_traces_are_of_whole_requests_and_long_enough_for_the_longest_draft(batch):
    made = synthetic.made_for(batch, 0, like.MIDDLE)
    first, length = split_of(made.tokens, "held-out")
    assert first % made.request_tokens == length % made.request_tokens == 0
    assert len(cut_rounds(made.tokens, batch, DRAFT_LENGTH.high + 1, "held-out", 8)) >= 1


@pytest.mark.parametrize("batch", [1, 4, 16, 64])
@pytest.mark.parametrize("split", ["train", "held-out"])
def test_sequences_of_a_batch_are_requests_of_their_own(batch, split):
    made = synthetic.made_for(batch, 0, like.MIDDLE)
    rounds = cut_rounds(made.tokens, batch, 17, split, 8).tokens
    middle = rounds[len(rounds) // 2, :, 8] // made.request_tokens
    assert len(np.unique(middle)) == batch


@pytest.mark.parametrize("made", [synthetic.Made(100, 7), synthetic.Made(2048, 1, "gpt-oss-20b", 16)])
def test_the_name_of_a_synthetic_trace_is_all_that_is_needed_to_make_it_again(made):
    assert synthetic.parse_name(made.name) == made


@pytest.mark.parametrize("name", ["synthetic-0tokens-seed0", "synthetic-٣tokens-seed0", "synthetic-9tokens-seed0-x"])
def test_what_is_no_name_of_a_trace_is_none(name):
    assert synthetic.parse_name(name) is None


def test_requests_of_any_length_cost_no_more_than_the_trace():
    with pytest.raises(InputError, match="requests of 0 tokens; valid: 1 or more"):
        synthetic.parse_name("synthetic-9tokens-seed0-requests-of-0")
    long = synthetic.parse_name("synthetic-9tokens-seed0-requests-of-9999999")
    assert long is not None
    tracemalloc.start()
    assert synthetic.generate(long, 1, 8, 2).tokens == 9
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()


def test_a_profile_that_does_not_exist_is_refused_before_the_model_is_traced(tmp_path):
    check_exists(None)
    check_exists("synthetic-100tokens-seed0")
    with pytest.raises(InputError, match="no such file"):
        check_exists(str(tmp_path / "no.npz"))


def test_synthetic_traces_are_seeded_and_the_draft_asks_for_the_same_as_often_as_measured():
    shape = layers(8, 128, 8)
    first = load(synthetic.Made(1024).name, shape)
    assert first.record.sha256 == load(synthetic.Made(1024).name, shape).record.sha256
    assert first.record.sha256 != load(synthetic.Made(1024, 1).name, shape).record.sha256
    same = (first.trace.draft_experts == first.trace.experts).all(axis=2).mean()
    assert same == pytest.approx(0.44, abs=0.02)


def test_what_is_in_the_middle_repeats_as_much_as_halfway_between_the_measured():
    shape = like.Shape(2048, 8, 64, 6)
    repeats = {name: statistics(like.generate(shape, 0, like.LIKE[name]), 64).next_token for name in like.LIKE}
    measured = [repeats[name] for name in like.MEASURED]
    assert repeats["middle"] == pytest.approx((min(measured) + max(measured)) / 2, rel=0.1)


def test_glm_repeats_what_is_published():
    """25.7 % of its experts at the next token (docs/reference.md section 5)."""
    shape = like.Shape(3072, 46, 64, 4)
    found = statistics(like.generate(shape, 0, like.LIKE["glm-4.7-flash"]), 64)
    assert found.next_token == pytest.approx(0.257, rel=0.1)


MEASURED = {
    # Of the trace that the numbers were not fitted to, reasoning: next token, 2, 4, 8 and 16 tokens, popularity, next
    # layer, LRU of 40 %. Of the others, of the trace that they were fitted to. `benchmarks/routing.py` prints them.
    "mixtral-8x7b": (like.Shape(1024, 8, 8, 2), 0.356, (1.644, 2.493, 3.302, 3.781), 0.323, 0.475, 0.477),
    "olmoe-1b-7b": (like.Shape(299, 8, 64, 8), 0.435, (1.565, 2.423, 3.639, 4.917), 0.554, 0.491, 0.721),
    "qwen3-30b-a3b": (like.Shape(129, 8, 128, 6), 0.379, (1.621, 2.596, 3.930, 5.585), 0.862, 0.518, 0.896),
    "gemma-4-26b-a4b": (like.Shape(157, 8, 128, 6), 0.356, (1.644, 2.611, 3.977, 5.791), 0.829, 0.541, 0.879),
}


@pytest.mark.parametrize("name", MEASURED)
def test_routing_like_a_model_has_its_figures(name):
    shape, next_token, distinct, popularity, next_layer, cached = MEASURED[name]
    request = shape.tokens if shape.tokens < 1000 else like.REQUEST_TOKENS
    made = [statistics(like.generate(shape, seed, like.LIKE[name], request), shape.experts) for seed in range(12)]

    def close(value, figure):
        return np.mean([figure(found) for found in made]) == pytest.approx(value, rel=0.12)

    assert close(next_token, lambda found: found.next_token)
    for window, value in zip((2, 4, 8, 16), distinct, strict=True):
        assert np.mean([found.distinct[window] for found in made]) == pytest.approx(value, rel=0.07), window
    assert close(popularity, lambda found: found.popularity)
    assert close(cached, lambda found: found.cached[0.4])
    assert close(next_layer, lambda found: found.next_layer)


@pytest.mark.parametrize(
    ("name", "experts", "top_k", "distinct"),
    [("qwen3-30b-a3b", 128, 8, (26, 43, 65)), ("deepseek-v2-lite", 64, 6, (20.8, 34, 50))],
)
def test_sequences_of_a_batch_share_what_published_speeds_say(name, experts, top_k, distinct):
    """Distinct experts of 4, 8 and 16 sequences, backed out of the published table (docs/reference.md section 3)."""
    requests, tokens, layers = 32, 40, 4
    shape = like.Shape(requests * tokens, layers, experts, top_k)
    made = like.generate(shape, 0, like.LIKE[name], tokens).reshape(requests, tokens, layers, top_k)
    for batch, value in zip((4, 8, 16), distinct, strict=True):
        steps = made[:, 4::4].reshape(requests // batch, batch, -1, layers, top_k).transpose(0, 2, 3, 1, 4)
        found = [len(np.unique(step)) for step in steps.reshape(-1, batch * top_k)]
        assert np.mean(found) == pytest.approx(value, rel=0.1)


@pytest.mark.parametrize(
    ("name", "shape", "shares"),
    [
        ("glm-4.7-flash", like.Shape(2048, 8, 64, 4), ((0.067, 0.40), (0.202, 0.59))),
        ("deepseek-v2-lite", like.Shape(2048, 8, 64, 6), ((0.178, 0.43), (0.440, 0.67))),
        ("gpt-oss-20b", like.Shape(2048, 8, 32, 4), ((0.260, 0.94), (0.654, 1.00))),
    ],
)
def test_sets_that_follow_hit_as_often_as_published_speeds_say(name, shape, shares):
    """Shares of experts that fit in 4 and 8 GB, and their hits: f^g of docs/reference.md section 3; of gpt-oss what its
    published speed leaves for loads, all else taken off. A fifth off, as the published speeds themselves may be."""
    made = like.generate(shape, 0, like.LIKE[name])
    learnt = shape.tokens // 2
    for share, hits in shares:
        assert best_hits(made[:learnt], made[learnt:], shape, share) == pytest.approx(hits, rel=0.2), share


def best_hits(learnt: np.ndarray, rest: np.ndarray, shape: like.Shape, share: float) -> float:
    """Of the rules that select-draft has, the most hits of a set that begins with what is popular."""
    uses = membership(learnt, shape.experts).sum(axis=0)
    resident = np.zeros(uses.size, dtype=bool)
    resident[np.argsort(-uses.ravel(), kind="stable")[: round(share * uses.size)]] = True
    found = []
    for rule in RULES:
        hot_set, hits = HotSet(rule, resident.reshape(uses.shape), uses), 0
        for used in membership(rest, shape.experts):
            hits += int((used & hot_set.resident).sum())
            hot_set.follow(used.astype(np.int64), 1, shape.top_k)
        found.append(hits / rest.size)
    return max(found)


def test_the_name_says_which_model_routing_is_like():
    shape = layers(2, 16, 4)
    plain, alike = (load(f"synthetic-300tokens-seed0{end}", shape) for end in ("", "-like-olmoe-1b-7b"))
    assert plain.record.sha256 == load("synthetic-300tokens-seed0-like-middle", shape).record.sha256
    assert alike.record.name.endswith("-like-olmoe-1b-7b")
    assert alike.record.kind == "synthetic"
    assert alike.record.sha256 != plain.record.sha256
    assert alike.record.sha256 == load(alike.record.name, shape).record.sha256
    with pytest.raises(InputError, match=r"nothing is known of the routing of 'gpt-5'; valid: mixtral-8x7b"):
        check_exists("synthetic-300tokens-seed0-like-gpt-5")


def log_lift(chosen: np.ndarray, experts: int) -> np.ndarray:
    """How much more often than by chance each pair of experts is chosen together, by layer, in logarithms."""
    result = []
    for layer in range(chosen.shape[1]):
        used = membership(chosen[:, layer], experts).astype(float)
        pairs = np.triu_indices(experts, 1)
        together, alone = (used.T @ used)[pairs], np.outer(used.mean(0), used.mean(0))[pairs]
        result.append(np.log((together / together.sum() + 1e-4) / (alone / alone.sum() + 1e-4)))
    return np.concatenate(result)


def test_co_activation_persists_in_real_and_synthetic_traces():
    """Spread and persistence of co-activation."""
    real = load(str(public_data("mixtral-8x7b-math.npz")), MIXTRAL).trace.experts
    made = load("synthetic-8192tokens-seed0-like-mixtral-8x7b", layers(8, 8, 2)).trace.experts
    for chosen, spread, correlation in ((real, 0.7, 0.85), (made, 0.5, 0.7)):
        half = len(chosen) // 2
        first, second = log_lift(chosen[:half], 8), log_lift(chosen[half:], 8)
        assert first.std() > spread
        assert np.corrcoef(first, second)[0, 1] > correlation


def save(path, **arrays):
    np.savez(path, **arrays)
    return str(path)


def good(tokens=64):
    return np.stack([np.random.default_rng(t).permuted(np.arange(8))[:2] for t in range(tokens * 32)]).reshape(
        tokens, 32, 2
    )


def test_a_users_profile_with_measured_draft(tmp_path):
    path = save(tmp_path / "mine.npz", experts=good(), draft_experts=good(), kind="synthetic")
    record = load(path, MIXTRAL).record
    assert (record.name, record.kind, record.draft_routing) == ("mine.npz", "synthetic", "measured")


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"experts": good() + 100}, ["out of range", "0 to 7"]),
        ({"experts": good().astype(np.int16) - 9}, ["out of range"]),
        ({"experts": good()[:, :5]}, ["another model", "32 MoE layers"]),
        ({"experts": good()[:, :, :1]}, ["top-2"]),
        ({"experts": good().astype(float)}, ["integers"]),
        ({"experts": good()[0]}, ["[token, layer, k]"]),
        ({"experts": good()[:0]}, ["no tokens"]),
        ({"experts": np.zeros((4, 32, 2), int)}, ["one expert twice"]),
        ({"routes": good()}, ["no array 'experts'", "routes"]),
        ({"experts": good(), "kind": "made up"}, ["real, synthetic"]),
        ({"experts": good(), "draft_experts": good(8)}, ["draft_experts"]),
    ],
)
def test_a_bad_profile_is_refused(tmp_path, arrays, words):
    with pytest.raises(InputError) as error:
        load(save(tmp_path / "bad.npz", **arrays), MIXTRAL)
    for word in words:
        assert word in str(error.value)


def test_files_that_are_no_profile(tmp_path):
    (tmp_path / "text.npz").write_text("hello")
    np.save(tmp_path / "single.npy", good())
    np.savez(tmp_path / "pickled.npz", experts=np.array([object()], dtype=object))
    for name in ("text.npz", "single.npy", "pickled.npz", "missing.npz"):
        with pytest.raises(InputError, match=name):
            load(str(tmp_path / name), MIXTRAL)


def test_rounds_are_runs_of_consecutive_tokens_and_splits_do_not_meet():
    train, held = (cut_rounds(1000, 4, 5, split, 8).tokens for split in ("train", "held-out"))
    assert train.shape == held.shape == (8, 4, 5)
    assert (np.diff(train, axis=2) == 1).all()
    assert train.max() < 750 <= held.min()
    with pytest.raises(InputError, match="too few"):
        cut_rounds(10, 4, 5, "held-out", 8)


def test_restricted_choice_keeps_asked_residents_and_fills_by_popularity():
    asked = membership(np.array([[0, 5, 6]]), 8)
    resident = membership(np.array([0, 1, 2, 3]), 8)
    picks = restrict(asked, resident, np.array([7, 3, 1, 0, 2, 4, 5, 6]), top_k=3)
    assert np.flatnonzero(picks[0]).tolist() == [0, 1, 3]
    few = restrict(asked, membership(np.array([5]), 8), np.arange(8), top_k=3)
    assert np.flatnonzero(few[0]).tolist() == [5]
