"""Store files: what they hold, and what becomes of those that are damaged, odd or of another model."""

import ctypes
import errno
import json
import os
import shutil
import time
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from moe_compiler.runtime import native, store_file
from moe_compiler.runtime.decoder import Decoder
from moe_compiler.runtime.far import Scratch, Transfer, move, pace_of, read
from moe_compiler.runtime.huggingface import configuration
from moe_compiler.runtime.model import from_store
from moe_compiler.runtime.packing import REST, SLICE, Layout, pages
from moe_compiler.runtime.plan import Plan
from moe_compiler.runtime.reader import Reader, warm_up
from moe_compiler.runtime.store_file import StoreFile
from tests.command import assert_refused, moec
from tests.conftest import tiny_config
from tests.running import MODEL, run


def test_an_unpacked_slice_differs_from_the_whole_by_half_a_step_at_most(store, tmp_path):
    for name in ("full", "msb"):
        assert moec("unpack", store, "--slice", name, "-o", tmp_path / name).returncode == 0
    file = "model-00002.safetensors"
    whole, sliced = load_file(tmp_path / "full" / file), load_file(tmp_path / "msb" / file)
    name = "model.layers.0.mlp.experts.3.up_proj.weight"
    original = load_file(MODEL / "model.safetensors")[name].float()
    step = original.abs().amax() / 127
    assert (whole[name] - original).abs().max() <= 0.51 * step
    assert 8.1 * step > (sliced[name] - whole[name]).abs().max() > step
    assert_refused(moec("unpack", store, "--slice", "low", "-o", tmp_path / "low"), "--slice low", "full or msb")


def test_a_store_holds_the_whole_model_and_its_tokenizer(store):
    found = StoreFile(store)
    assert {"tokenizer.json", "tokenizer_config.json"} <= set(found.entries.files)
    assert found.file("tokenizer.json") == (MODEL / "tokenizer.json").read_bytes()
    assert torch.equal(
        found.raw("model.embed_tokens.weight"), load_file(MODEL / "model.safetensors")["model.embed_tokens.weight"]
    )
    assert {layer: len(entry["pieces"]) for layer, entry in found.entries.experts.items()} == dict.fromkeys(
        range(4), 16
    )
    found.close()


def test_experts_that_pass_by_share_rooms_where_they_are_of_one_layout():
    shapes = {0: ((2, 32),), 1: ((200, 64),), 2: ((2, 32),)}
    far = SimpleNamespace(layouts={layer: Layout(shape) for layer, shape in shapes.items()}, rooms=pages)
    far.transfer, far.move = lambda *asked: asked, lambda transfer: None
    scratch = Scratch()
    first, second, third = (scratch.matrices(far, layer, 0)[0] for layer in range(3))
    assert [matrix.top.shape for matrix in (first, second)] == [(2, 16), (200, 32)]
    assert first.top.data_ptr() == third.top.data_ptr()


def test_an_embedding_is_looked_up_where_it_lies(store):
    file = StoreFile(store)
    name = "model.embed_tokens.weight"
    whole = file.raw(name).float()
    ids = torch.tensor([[0, 3], [len(whole) - 1, 7]])
    assert torch.equal(file.rows(name, ids), whole[ids])
    model = from_store(file)
    embedding = model.module.get_input_embeddings().weight
    assert embedding.is_meta
    assert torch.equal(model.embeddings[id(embedding)](ids), whole[ids])
    for wrong in (-1, len(whole)):
        with pytest.raises(IndexError, match="no row"):
            file.rows(name, torch.tensor([wrong]))
    file.close()


def test_rows_of_an_embedding_that_were_read_last_are_kept(store, monkeypatch):
    """What was drafted is verified next; and a thousand other rows later nothing is left of it."""
    file, moved, name = StoreFile(store), [], "model.embed_tokens.weight"
    monkeypatch.setattr(store_file, "move", lambda transfer, pace: moved.append(transfer) or move(transfer, pace))
    first = file.rows(name, torch.tensor([[7, 8]]))
    again = file.rows(name, torch.tensor([[8, 7, 9]]))
    assert len(moved) == 3
    assert torch.equal(again[0, [1, 0]], first[0])
    file.rows(name, torch.arange(10, 10 + store_file.KEPT_ROWS))
    moved.clear()
    assert torch.equal(file.rows(name, torch.tensor([7, 8])), first[0])
    assert len(moved) == 2
    file.close()


@pytest.fixture
def interpreted(monkeypatch):
    """Reads as Python runs them; returns how many rooms each asks for, and what the disk does of it."""
    calls, disk = [], {"most": 2**30, "errors": []}

    def preadv(number, address, count, offset):
        calls.append(int(count))
        if disk["errors"]:
            return -1
        rooms = np.ctypeslib.as_array((ctypes.c_int64 * (2 * int(count))).from_address(address)).reshape(-1, 2)
        left, few = disk["most"], []
        for room, size in rooms.tolist():
            few.append((ctypes.c_char * min(size, left)).from_address(room))
            left -= len(few[-1])
        return os.preadv(int(number), [view for view in few if len(view)], int(offset))

    monkeypatch.setattr(native, "_preadv", preadv)
    monkeypatch.setattr(native, "_errno", lambda: [disk["errors"].pop(0)])
    monkeypatch.setattr(native, "_carray", lambda pointer, size: pointer)
    for name in ("_read_run", "move"):
        monkeypatch.setattr(native, name, getattr(native, name).py_func)
    return calls, disk


def pieces_of(file, *names):
    layout = file.layouts[1]
    rooms = {SLICE: pages(layout.slice_bytes), REST: pages(layout.rest_bytes)}
    read(file, 1, 3, {name: rooms[name] for name in names})
    return rooms


def test_an_expert_is_one_read_however_it_comes(store, interpreted):
    """Both pieces at once, in either order, in parts where the disk gives parts, or a read each where only one is."""
    file, (calls, disk) = StoreFile(store), interpreted
    whole = pieces_of(file, SLICE, REST)
    assert calls == [2]
    for order, reads in (((REST, SLICE), [1, 1]), ((SLICE,), [1]), ((REST,), [1]), ((), [])):
        calls.clear()
        found = pieces_of(file, *order)
        assert calls == reads
        assert all(torch.equal(found[name], whole[name]) for name in order)
    calls.clear()
    disk["most"] = 3 * 4096
    found = pieces_of(file, SLICE, REST)
    assert len(calls) > 4
    assert all(torch.equal(found[name], whole[name]) for name in (SLICE, REST))
    file.close()


def test_an_interrupted_read_goes_on_and_one_that_fails_says_why(store, interpreted):
    file, (_, disk) = StoreFile(store), interpreted
    whole = pieces_of(file, SLICE, REST)
    disk["errors"] = [errno.EINTR, errno.EINTR]
    found = pieces_of(file, SLICE, REST)
    assert all(torch.equal(found[name], whole[name]) for name in (SLICE, REST))
    disk["errors"] = [errno.EIO]
    with pytest.raises(OSError, match="Input/output error") as raised:
        pieces_of(file, SLICE)
    assert (raised.value.errno, raised.value.filename) == (errno.EIO, str(store))
    file.close()


def test_the_compiled_reads_are_those_of_python(store, tmp_path):
    file = StoreFile(store)
    entry = file.entries.experts[1]["pieces"][3]
    found, data = pieces_of(file, SLICE, REST), store.read_bytes()
    for name in (SLICE, REST):
        offset, size, _ = entry[name]
        assert found[name][:size].numpy().tobytes() == data[offset : offset + size]
    file.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        pieces_of(file, SLICE)
    cut_off = StoreFile(store)
    shorter = changed(store, tmp_path / "x.store", cut(entry[SLICE][0] + 4096))
    cut_off._file, _ = store_file.open_direct(shorter)
    with pytest.raises(ValueError, match="the slice of expert 3 of layer 1 is cut off"):
        pieces_of(cut_off, SLICE)
    cut_off.close()


def test_reads_are_held_to_a_rate_whoever_reads():
    """1,000 bytes at 10,000 a second from the thread and 500 from here, at once: the later one ends after 150 ms."""
    rooms = torch.zeros(3, 4096, dtype=torch.uint8)
    parts = ((rooms[0].data_ptr(), 1, rooms[1].data_ptr()),)
    pace = pace_of(10_000)
    reader = Reader(2, pace)
    warm_up()
    begun = time.perf_counter_ns()
    reader.submit(Transfer(native.MEMORY, parts, 1000, False, lambda status: None, rooms), 0)
    move(Transfer(native.MEMORY, parts, 500, False, lambda status: None, rooms), pace)
    while not (ended := reader.ended()):
        reader.wait(1.0)
    reader.close()
    assert ended[0].end - ended[0].start >= 0.1e9
    assert time.perf_counter_ns() - begun >= 0.15e9
    assert begun <= ended[0].start


def test_what_has_no_bytes_is_read(tmp_path):
    weights = Path(shutil.copytree(MODEL, tmp_path / "weights"))
    for name in ("merges.txt", "chat_template.jinja"):
        (weights / name).write_text("")
    assert moec("pack", weights, "--weights", weights, "-o", tmp_path / "x.store").returncode == 0
    file = StoreFile(tmp_path / "x.store")
    assert file.file("merges.txt") == b""
    file.close()


def test_a_damaged_embedding_is_refused_before_anything_is_generated(folder, store, tmp_path):
    file = StoreFile(store)
    offset, size, _ = file.entries.raw["model.embed_tokens.weight"]["piece"]
    file.close()
    copy = tmp_path / "x.store"
    data = bytearray(store.read_bytes())
    data[offset + size - 3] ^= 1
    copy.write_bytes(data)
    assert_refused(run(folder, copy, tokens=2), "model.embed_tokens.weight is damaged", "CRC-32")


def changed(store, path, change):
    data = bytearray(store.read_bytes())
    change(data)
    path.write_bytes(data)
    return path


def flip(place):
    def change(data):
        data[place] ^= 16

    return change


def cut(size):
    def change(data):
        del data[size:]

    return change


def test_a_damaged_store_is_refused_and_says_where(folder, store, tmp_path):
    whole = StoreFile(store)
    dense = whole.entries.dense["model.layers.2.self_attn.q_proj.weight"]["rest"][0]
    expert = whole.entries.experts[1]["pieces"][5]["slice"][0]
    size = store.stat().st_size
    for change, words in (
        (flip(0), ["is no store"]),
        (flip(8), ["is of version 17", "pack the model again"]),
        (flip(size - 4096 + 100), ["damaged"]),
        (cut(size - 4096), ["is cut off"]),
        (cut(16), ["is no store, or damaged"]),
        (flip(dense), ["the rest of model.layers.2.self_attn.q_proj.weight is damaged"]),
    ):
        assert_refused(run(folder, changed(store, tmp_path / "bad.store", change)), "bad.store", *words)
    model = from_store(StoreFile(changed(store, tmp_path / "bad.store", flip(expert + 7))))
    with pytest.raises(ValueError, match="the slice of expert 5 of layer 1 is damaged"):
        Decoder(model, Plan(resident={1: [5]}), [[1]], 8)


def test_a_damaged_expert_ends_a_run_where_it_is_needed(folder, store, tmp_path):
    """The rest of every expert is damaged: the thread that loads it lives, and the run says what is wrong."""
    entries = StoreFile(store).entries.experts

    def change(data):
        for entry in entries.values():
            for pieces in entry["pieces"]:
                data[pieces["rest"][0]] ^= 1

    assert_refused(run(folder, changed(store, tmp_path / "bad.store", change)), "the rest of expert", "is damaged")


def test_headers_that_lie_are_refused(store, tmp_path):
    """A header with a right CRC-32, written by somebody else: places beyond the file, shapes that are none."""
    found = StoreFile(store)
    for change, words in (
        (lambda h: h["dense"]["lm_head.weight"]["slice"].__setitem__(0, 2**40), "is cut off"),
        (lambda h: h["dense"]["lm_head.weight"]["slice"].__setitem__(1, 5), "valid: "),
        (lambda h: h["dense"]["lm_head.weight"]["shape"].__setitem__(0, float("inf")), "where a count is expected"),
        (lambda h: h["dense"]["lm_head.weight"]["slice"].__setitem__(0, 4096.0), "where a count is expected"),
        (lambda h: h["files"].__setitem__("evil.py", [4096, 1, 0]), "holds a file 'evil.py'"),
        (lambda h: h["files"].__setitem__("vocab.json", []), "is no store, or damaged"),
        (lambda h: h["experts"]["0"]["shapes"].__setitem__(0, [-1, 4]), "where a count is expected"),
        (lambda h: h["experts"].__setitem__("x", {}), "x"),
        (lambda h: h["raw"].__setitem__("a", {"shape": [2**60], "dtype": "F32", "piece": [4096, 8, 0]}), "valid: "),
        (lambda h: h["raw"].__setitem__("a", {"shape": [2**32] * 2, "dtype": "F32", "piece": [4096, 0, 0]}), "valid: "),
        (lambda h: h.pop("dense"), "dense"),
    ):
        header = json.loads(json.dumps(vars(found.entries)))
        header["experts"] = {str(layer): entry for layer, entry in header["experts"].items()}
        change(header)
        data = bytearray(store.read_bytes())
        text, place = json.dumps(header).encode(), len(data)
        data += text
        data[:32] = store_file.PREAMBLE.pack(b"MOESTORE", 1, zlib.crc32(text), place, len(text))
        (tmp_path / "lies.store").write_bytes(data)
        with pytest.raises(ValueError, match=words):
            StoreFile(tmp_path / "lies.store")


def rewritten(store, path, change):
    """A store with another header, and the right CRC-32 of it."""
    header = json.loads(json.dumps(vars(StoreFile(store).entries)))
    change(header)
    data, text = bytearray(store.read_bytes()), json.dumps(header).encode()
    place = len(data)
    data += text + bytes(-len(text) % 4096)
    data[:32] = store_file.PREAMBLE.pack(b"MOESTORE", 1, zlib.crc32(text), place, len(text))
    path.write_bytes(data)
    return path


def exchange(header):
    dense = header["dense"]
    dense["model.layers.0.self_attn.q_proj.weight"] = dense["model.layers.0.self_attn.k_proj.weight"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (exchange, "model.layers.0.self_attn.q_proj.weight is [64, 192]; its model has [192, 192]"),
        (lambda h: h["experts"]["2"]["shapes"].reverse(), "the experts of layer 2 are not those of its model"),
        (lambda h: h["experts"]["2"]["pieces"].pop(), "the experts of layer 2 are not those of its model"),
        (lambda h: h["experts"].pop("1"), "has experts of layers [0, 2, 3]"),
        (lambda h: h["raw"].pop("model.norm.weight"), "model.norm.weight is nothing"),
        (lambda h: h["raw"].__setitem__("model.layers", h["raw"]["model.norm.weight"]), "model.layers is [192]"),
    ],
)
def test_a_store_that_is_not_of_its_own_model_is_refused(folder, store, tmp_path, change, words):
    path = rewritten(store, tmp_path / "odd.store", change)
    assert_refused(run(folder, path), words)
    assert_refused(moec("unpack", path, "-o", tmp_path / "unpacked"), words)
    assert not (tmp_path / "unpacked").exists()


def test_a_store_of_another_model_is_refused(folder, tmp_path):
    torch.manual_seed(0)
    other = tmp_path / "other"
    AutoModelForCausalLM.from_config(configuration(tiny_config("olmoe"))).save_pretrained(other)
    shutil.copy(MODEL / "tokenizer.json", other)
    assert moec("pack", other, "--weights", other, "-o", tmp_path / "other.store").returncode == 0
    assert_refused(run(folder, tmp_path / "other.store"), "is of another model", "valid: a store of the compiled model")
    assert_refused(moec("pack", MODEL, "--weights", other, "-o", tmp_path / "x.store"), "not this model's weights")


def test_weights_that_cannot_be_packed_leave_nothing(tmp_path, monkeypatch):
    weights = tmp_path / "weights"
    shutil.copytree(MODEL, weights)
    tensors = load_file(MODEL / "model.safetensors")
    broken = "model.layers.1.mlp.experts.7.down_proj.weight"
    tensors[broken][3, 4] = float("nan")
    save_file(tensors, weights / "model.safetensors", metadata={"format": "pt"})
    output = tmp_path / "made" / "x.store"
    output.parent.mkdir()
    done = moec("pack", MODEL, "--weights", weights, "-o", output)
    assert_refused(done, "expert 7 of layer 1 holds numbers that are not finite")
    assert_refused(
        moec("pack", MODEL, "--weights", tmp_path / "no", "-o", output), "valid: a folder with *.safetensors"
    )
    assert_refused(moec("pack", MODEL, "--weights", MODEL, "-o", tmp_path / "no" / "x.store"), "no/x.store")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store_file.os, "fsync", full)
    assert_refused(moec("pack", MODEL, "--weights", MODEL, "-o", output), "No space left on device")
    assert list(output.parent.iterdir()) == []


def test_a_store_without_a_tokenizer_is_refused(folder, tmp_path):
    weights = tmp_path / "weights"
    weights.mkdir()
    for name in ("model.safetensors", "config.json"):
        shutil.copy(MODEL / name, weights)
    assert moec("pack", MODEL, "--weights", weights, "-o", tmp_path / "x.store").returncode == 0
    assert_refused(run(folder, tmp_path / "x.store"), "has no tokenizer", "tokenizer.json")
