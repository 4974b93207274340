"""`moec profile import`: routing that other systems recorded; files of strangers run nothing and exhaust nothing."""

import io
import json
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch

from moe_compiler.importing import draw
from tests.command import assert_refused, moec
from tests.conftest import write_tiny

TOKENS, LAYERS, EXPERTS, TOP_K = 40, 3, 16, 4


@pytest.fixture
def chosen():
    random = np.random.default_rng(0)
    return np.sort(random.random((TOKENS, LAYERS, EXPERTS)).argsort(axis=2)[:, :, :TOP_K], axis=2)


def imported(path, out, *options):
    done = moec("profile", "import", path, *options, "-o", out, "--json")
    assert done.returncode == 0, done.stderr
    arrays = np.load(out)
    return json.loads(done.stdout), arrays["experts"].astype(int), str(arrays["kind"])


def test_sglangs_records_of_each_token_are_the_profile(chosen, tmp_path):
    """Two ranks' steps; layer 0 is dense; slots are numbered backwards; the last row pads a batch."""
    slots = EXPERTS - 1 - chosen
    ids = np.full((TOKENS + 1, LAYERS + 1, TOP_K), -1)
    ids[:TOKENS, 1:] = slots
    halves = (ids[:20], ids[20:])
    records = [
        {
            "forward_pass_id": n,
            "rank": 0,
            "gatherer_key": "primary",
            "topk_ids_of_layer": torch.tensor(h).transpose(0, 1),
        }
        for n, h in enumerate(halves)
    ]
    mapping = torch.arange(EXPERTS - 1, -1, -1).repeat(LAYERS + 1, 1)
    torch.save({"records": records, "last_physical_to_logical_map": mapping}, tmp_path / "recorder.pt")
    said, found, kind = imported(tmp_path / "recorder.pt", tmp_path / "out.npz")
    assert (np.sort(found, axis=2) == chosen).all()
    assert (kind, said["file_layers"]) == ("real", [1, 2, 3])


def test_counts_of_steps_of_one_token_are_its_choices(chosen, tmp_path):
    counts = np.zeros((TOKENS, LAYERS, EXPERTS), dtype=np.int32)
    np.put_along_axis(counts, chosen, 1, axis=2)
    torch.save({"rank": 0, "logical_count": torch.tensor(counts)}, tmp_path / "stat.pt")
    _, found, kind = imported(tmp_path / "stat.pt", tmp_path / "out.npz")
    assert kind == "real"
    assert (found == chosen).all()


@pytest.mark.parametrize("form", ["npz", "pt"])
def test_from_counts_alone_tokens_are_drawn_that_choose_as_often(form, tmp_path):
    counts = np.random.default_rng(1).zipf(1.6, (LAYERS, EXPERTS)).clip(1, 400) * 10
    path = tmp_path / f"load.{form}"
    if form == "npz":
        np.savez(path, load=counts)
    else:
        torch.save(torch.tensor(counts).float(), path)
    _, found, kind = imported(path, tmp_path / "out.npz", "--top-k", TOP_K)
    assert kind == "synthetic"
    shares = np.clip(counts / counts.sum(axis=1, keepdims=True) * TOP_K, 0, 1)
    drawn = np.stack([np.bincount(found[:, row].ravel(), minlength=EXPERTS) for row in range(LAYERS)]) / len(found)
    # What is counted more often than every token could choose it leaves its excess to the others.
    open_ = shares < 1
    for row in range(LAYERS):
        rest = shares[row] * open_[row]
        rest *= (TOP_K - (~open_[row]).sum()) / rest.sum()
        assert drawn[row][open_[row]] == pytest.approx(np.minimum(rest, 1)[open_[row]], abs=0.08)
    again = draw(counts, TOP_K, 0)
    assert (again == draw(counts, TOP_K, 0)).all()
    assert (again != draw(counts, TOP_K, 1)).any()


def test_experts_that_were_never_counted_are_never_drawn():
    counts = np.array([[9, 5, 4, 0, 2, 0]])
    assert set(np.unique(draw(counts, 2, 0, 500))) == {0, 1, 2, 4}


@pytest.mark.parametrize("form", ["numbered", "joined", "choices", "lines", "nested"])
def test_rows_of_text(form, chosen, tmp_path):
    path = tmp_path / ("t.jsonl" if form in ("lines", "nested") else "t.csv")
    rows = [(t, la, chosen[t, la].tolist()) for t in range(TOKENS) for la in range(LAYERS)]
    lines = {
        "numbered": [
            "token,layer,expert0,expert1,expert2,expert3",
            *(f"{t},{la},{','.join(map(str, e))}" for t, la, e in rows),
        ],
        "joined": ["pos,layer,experts", *(f"{t},{la},{' '.join(map(str, e))}" for t, la, e in rows)],
        "choices": ["token,layer,expert", *(f"{t},{la},{one}" for t, la, e in rows for one in e)],
        "lines": [json.dumps({"token": t, "layer": la, "experts": e}) for t, la, e in rows],
        "nested": [json.dumps({"experts": chosen[t].tolist()}) for t in range(TOKENS)],
    }[form]
    path.write_text("\n".join(lines) + "\n")
    said, found, kind = imported(path, tmp_path / "out.npz")
    assert (found == chosen).all()
    assert (kind, said["tokens"], said["layers"], said["top_k"]) == ("real", TOKENS, LAYERS, TOP_K)


def test_an_imported_profile_is_compiled_against(chosen, tmp_path, small):
    write_tiny(tmp_path / "tiny")
    many = np.tile(chosen, (10, 1, 1))
    np.save(tmp_path / "x.npy", many)
    lines = [json.dumps({"experts": token.tolist()}) for token in many]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    imported(tmp_path / "t.jsonl", tmp_path / "mine.npz", "--model", tmp_path / "tiny")
    target = (
        "--target",
        "elmoe3d-4gb",
        "--set",
        "memories.hb.capacity_gb=0.0003",
        "--context",
        64,
        "--time-limit",
        0.2,
    )
    done = moec(
        "compile", tmp_path / "tiny", *target, "--profile", tmp_path / "mine.npz", "--json", "-o", tmp_path / "out"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["profile"]["kind"] == "real"


class Evil:
    def __reduce__(self):
        return os.system, ("touch /tmp/moec-was-here",)


def archive(pickled, *more):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("archive/data.pkl", pickled)
        out.writestr("archive/version", "3\n")
        for name, content in more:
            out.writestr(f"archive/{name}", content)
    return buffer.getvalue()


def test_pickles_of_strangers_run_nothing(tmp_path):
    path = tmp_path / "evil.pt"
    for content in (archive(pickle.dumps(Evil())), archive(pickle.dumps({"logical_count": Evil()}))):
        path.write_bytes(content)
        assert_refused(moec("profile", "import", path, "-o", tmp_path / "o.npz"), "holds more than tensors")
    path.write_bytes(pickle.dumps(Evil()))
    assert_refused(moec("profile", "import", path, "-o", tmp_path / "o.npz"), "is no archive of torch.save")
    assert not os.path.exists("/tmp/moec-was-here")
    assert not (tmp_path / "o.npz").exists()


def test_bombs_are_refused_by_their_size(tmp_path):
    path = tmp_path / "bomb.pt"
    path.write_bytes(archive(b"x" * (17 * 1024**2)))
    assert_refused(moec("profile", "import", path, "-o", tmp_path / "o.npz"), "bytes unpacked", "of them a pickle")
    # A tensor of one stored number that says that it is a terabyte.
    torch.save({"logical_count": torch.zeros(1).expand(2**20, 2**10, 2**10)}, path)
    assert_refused(moec("profile", "import", path, "-o", tmp_path / "o.npz"), "at most 2 GiB")
    np.savez_compressed(tmp_path / "big.npz", load=np.zeros((2**14, 2**14)))
    assert_refused(moec("profile", "import", tmp_path / "big.npz", "-o", tmp_path / "o.npz"), "array 'load'")


@pytest.mark.filterwarnings("ignore:Sparse CSR")
def test_what_is_damaged_or_of_another_model_is_refused(chosen, tmp_path):
    write_tiny(tmp_path / "tiny")
    good = tmp_path / "good.jsonl"
    good.write_text("\n".join(json.dumps({"experts": token.tolist()}) for token in chosen))
    torch.save({"logical_count": torch.ones(LAYERS, EXPERTS)}, tmp_path / "whole.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "whole.pt").read_bytes()[:200])
    torch.save({"other": torch.ones(2)}, tmp_path / "other.pt")
    torch.save({"records": [{"global_physical_count": torch.ones(2)}]}, tmp_path / "pass.pt")
    np.savez(tmp_path / "negative.npz", load=-np.ones((2, 4)))
    np.savez(tmp_path / "fraction.npz", load=np.array([[12.7, 1.0]]))
    np.savez(tmp_path / "huge.npz", load=np.array([[1e300, 1.0]]))
    np.savez(tmp_path / "few.npz", load=np.array([[5, 5, 0, 0], [1, 1, 1, 1]]))
    torch.save({"logical_count": -torch.ones(LAYERS, EXPERTS)}, tmp_path / "minus.pt")
    torch.save({"logical_count": torch.ones(LAYERS, EXPERTS).to_sparse_csr()}, tmp_path / "sparse.pt")
    torch.save({"logical_count": torch.ones(LAYERS, EXPERTS).to(torch.float8_e4m3fn)}, tmp_path / "float8.pt")
    np.savez(tmp_path / "profile.npz", experts=np.zeros((2, 2, 1)), kind=np.array("real"))
    np.savez(tmp_path / "wide.npz", load=np.ones((60, 6000)))
    one = torch.zeros(1, dtype=torch.int64).expand(4, 30_000_000 // 4, 1)
    torch.save({"records": [{"topk_ids_of_layer": one} for _ in range(12)]}, tmp_path / "shared.pt")
    for name, text in {
        "escape.csv": "\x1b[31m,layer\n1,2\n",
        "overflow.jsonl": '{"experts": [[1e999]]}',
        "long.jsonl": '{"experts": [[111111111111111111111111111]]}',
        "ragged.jsonl": '{"experts": [[1, 2], 3]}\n{"experts": [[1, 2], [3, 4], [5, 6]]}',
        "fraction.jsonl": '{"token": 0.9, "layer": 0, "experts": [1.9, 2.2]}',
        "cell.csv": f"token,layer,expert0\n0,0,{'1' * 140_000}\n",
        "short.csv": "token,layer,expert0\n0,0,1\n0,1,2\n1,0,3\n",
        "letters.csv": "token,layer,expert0\n0,0,a\n",
        "columns.csv": "a,b\n1,2\n",
        "minus.csv": "token,layer,expert0\n0,0,-1\n",
        "none.csv": "token,layer,expert0\n",
        "bad.jsonl": '{"experts": [[1, 2]]}\n{"experts": ',
        "twice.jsonl": '{"experts": [[1, 1]]}',
        "widths.jsonl": '{"experts": [[1, 2], [1]]}',
    }.items():
        (tmp_path / name).write_text(text)
    out = tmp_path / "o.npz"
    for name, options, words in (
        ("cut.pt", [], ["is no archive of torch.save"]),
        ("other.pt", [], ["holds other", "valid: records"]),
        ("pass.pt", [], ["record 0 has no topk_ids_of_layer"]),
        ("negative.npz", [], ["holds -1", "whole numbers from 0"]),
        ("fraction.npz", [], ["holds 12.7"]),
        ("huge.npz", [], ["holds 1e+300"]),
        ("minus.pt", [], ["from 0"]),
        ("few.npz", ["--top-k", 3], ["in layer 0 fewer than 3 experts were chosen"]),
        ("shared.pt", [], ["at most 2 GiB"]),
        ("sparse.pt", [], ["a tensor of torch.float32, torch.sparse_csr"]),
        ("float8.pt", [], ["a tensor of torch.float8_e4m3fn"]),
        ("profile.npz", [], ["is a profile already"]),
        ("wide.npz", ["--top-k", 2], ["at most 65,536 in all layers"]),
        ("few.npz", ["--top-k", 1, "--seed", -1], ["--seed -1"]),
        ("escape.csv", [], ["columns \\x1b[31m"]),
        ("overflow.jsonl", [], ["overflow.jsonl:1", "whole numbers"]),
        ("long.jsonl", [], ["long.jsonl:1", "experts up to 65535"]),
        ("ragged.jsonl", [], ["token 1 has 2 of", "valid"]),
        ("fraction.jsonl", [], ["fraction.jsonl:1", "whole numbers"]),
        ("cell.csv", [], ["cell.csv:", "not CSV"]),
        ("whole.pt", [], ["--top-k from 1 to 15"]),
        ("whole.pt", ["--top-k", 16], ["--top-k from 1 to 15"]),
        ("short.csv", [], ["token 1 has 1 of 2 layers"]),
        ("letters.csv", [], ["letters.csv:2", "whole numbers"]),
        ("columns.csv", [], ["columns.csv:1: columns a, b"]),
        ("minus.csv", [], ["minus.csv:2", "from 0"]),
        ("none.csv", [], ["holds no rows"]),
        ("bad.jsonl", [], ["bad.jsonl:2: not JSON"]),
        ("twice.jsonl", [], ["token 0 chooses an expert twice in layer 0"]),
        ("widths.jsonl", [], ["choices of [1, 2] experts"]),
        ("good.jsonl", ["--model", "mixtral-8x7b"], ["is of another model", "MoE layers; valid: 32"]),
        ("whole.pt", ["--model", tmp_path / "tiny", "--top-k", 4], ["--model"]),
        ("missing.pt", [], ["no such file"]),
        ("tiny", [], ["ends with ''", "valid: .pt"]),
    ):
        assert_refused(moec("profile", "import", tmp_path / name, *options, "-o", out), *words)
        assert not out.exists()
