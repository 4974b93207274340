"""Files that are none: pipes, devices, archives that promise more than they hold; notes that look like markup."""

import io
import os
import struct
import zipfile

import numpy as np
import pytest
from click.testing import CliRunner
from moe_passes.plan.errors import InputError

from moe_compiler import paths
from moe_compiler.cli import main
from moe_compiler.cli.commands import cli
from moe_compiler.documents.json_file import read_json
from moe_compiler.hardware.loader import shipped_targets
from moe_compiler.paths import read_arrays, read_text


def run(*arguments):
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


@pytest.mark.parametrize(
    "command", [["schedule"], ["allocate", "--capacity", 10], ["show"], ["opt", "-p", "cse"], ["target", "show"]]
)
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_pipes_and_devices_are_refused_at_once(tmp_path, command, kind):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    result = run(*command, path if kind == "pipe" else "/dev/zero")
    assert isinstance(result.exception, InputError), result.output
    assert "regular file" in str(result.exception)


def test_a_file_beyond_the_limit_is_refused(tmp_path):
    path = tmp_path / "long"
    path.write_text("x" * 11)
    assert read_text(path, 11) == "x" * 11
    with pytest.raises(OSError, match="larger than 10 bytes"):
        read_text(path, 10)
    with pytest.raises(OSError, match="larger than 10 bytes"):
        paths.read_stream(io.BytesIO(b"x" * 11), 10)


def archive(path, header: str, body: bytes = b""):
    text = header.encode()
    text += b" " * (63 - (len(text) + 10) % 64) + b"\n"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("experts.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + body)
    return path


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ("{'descr': '<i8', 'fortran_order': False, 'shape': (18446744073709551616, 8), }", "valid: numbers or text"),
        ("{'descr': '<i8', 'fortran_order': False, 'shape': (1073741824, 8), }", "valid: numbers or text"),
        ("{'descr': '|O', 'fortran_order': False, 'shape': (3,), }", "valid: numbers or text"),
        ("{'descr': '<i8', 'fortran_order': False, 'shape': (3,), }", "cannot be read"),
        ("{'descr': '<i8', 'fort", "cannot be read"),
        ("__import__('os').system('true')", "cannot be read"),
    ],
)
def test_arrays_are_looked_at_before_memory_is_taken(tmp_path, header, says):
    with pytest.raises(InputError, match=says):
        read_arrays(archive(tmp_path / "a.npz", header), {"experts"})


def test_arrays_that_are_there_are_read(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", experts=np.arange(6).reshape(1, 2, 3), other=np.zeros(1))
    found = read_arrays(tmp_path / "a.npz", {"experts", "kind"})
    assert list(found) == ["experts"]
    assert found["experts"].tolist() == [[[0, 1, 2], [3, 4, 5]]]


def test_notes_of_a_hardware_file_are_no_markup(tmp_path):
    path = tmp_path / "marked.yaml"
    text = shipped_targets()["elmoe3d-4gb"].read_text()
    path.write_text(text.replace("not published; taken equal to the read energy", "a [/b] note :smile: [red]here"))
    result = run("target", "show", path)
    assert result.exit_code == 0, result.exception
    assert "[/b]" in result.stdout
    assert "[red]" in result.stdout


def test_half_of_a_character_is_refused(tmp_path):
    path = tmp_path / "half.json"
    path.write_text('{"a": "\\ud800"}')
    with pytest.raises(InputError, match="half of a character"):
        read_json(path, "half")
    path.write_text('{"a": "\\ud83d\\ude00"}')
    assert read_json(path, "whole") == {"a": "😀"}


def test_messages_are_cut(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["moec", "schedule", "a" * 100_000])
    with pytest.raises(SystemExit) as stop:
        main.main()
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert len(message) < 1000
    assert message.rstrip().endswith("File name too long") or "cannot be read" in message


def test_bytes_that_are_no_text_are_refused(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["moec", "show", "a\udcff"])
    with pytest.raises(SystemExit) as stop:
        main.main()
    assert stop.value.code == 2
    assert "argument 2 has bytes that are not UTF-8" in capsys.readouterr().err
