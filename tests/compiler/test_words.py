"""Tokenizers and chat templates of strangers, and how text is said."""

import json
import os
import re
import shutil
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from moe_compiler.generation import Asked, Runner, _Said
from moe_compiler.runtime import words as words_module
from moe_compiler.runtime.bounded import Limits, bounded
from moe_compiler.runtime.words import Words
from tests.command import assert_refused, moec
from tests.running import MODEL, run


def test_a_tokenizer_that_fails_is_an_error_of_the_store(folder, store, tmp_path):
    weights = Path(shutil.copytree(MODEL, tmp_path / "weights"))
    tokenizer = json.loads((MODEL / "tokenizer.json").read_text())
    tokenizer["added_tokens"].append({**tokenizer["added_tokens"][0], "id": 1024, "content": "<|new|>"})
    (weights / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert moec("pack", weights, "--weights", weights, "-o", tmp_path / "x.store").returncode == 0
    assert_refused(run(folder, tmp_path / "x.store", prompts=["a<|new|>"]), "gives 1024", "has 1024 tokens")
    (weights / "tokenizer.json").write_text("{}")
    assert moec("pack", weights, "--weights", weights, "-o", tmp_path / "y.store").returncode == 0
    assert_refused(run(folder, tmp_path / "y.store"), "its tokenizer fails")


def test_a_conversation_goes_through_the_chat_template(folder, tmp_path):
    """Special tokens that the template wrote are not added once more."""
    weights = Path(shutil.copytree(MODEL, tmp_path / "weights"))
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"
    settings = json.loads((MODEL / "tokenizer_config.json").read_text())
    (weights / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": template}))
    assert moec("pack", weights, "--weights", weights, "-o", tmp_path / "x.store").returncode == 0
    runner = Runner.open(folder, tmp_path / "x.store")
    said = [{"role": "user", "content": "hello"}]
    heard = []
    answer = runner.answer(said, Asked(6), lambda number, text: heard.append(text))
    assert "".join(heard) == answer
    assert runner.words.chat(said) == "user: hello\nassistant:"
    assert runner.run([runner.words.chat(said)], Asked(6))["sequences"][0]["text"] == answer


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "takes over 1 s"),
        ("{{ 9 ** (9 ** 9) }}", "takes over 1 s"),
        ("{{ 'a' * 4 * 10 ** 9 }}", "takes over 1 GB"),
        ("{{ 'a' * 10 ** 7 }}", "makes over 2,097,152 characters"),
        (
            "{{ raise_exception('roles alternate' + 'x' * 10 ** 6) }}",
            "its chat template fails: roles alternate",
        ),
        ("{{ messages.nothing.at_all }}", "has no attribute"),
        ("{% for %}", "its chat template fails"),
    ],
)
def test_a_chat_template_cannot_exhaust_the_machine(tmp_path, monkeypatch, template, words):
    monkeypatch.setattr(words_module, "CHAT", replace(words_module.CHAT, seconds=1))
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(MODEL / file, tmp_path)
    (tmp_path / "chat_template.jinja").write_text(template)
    with pytest.raises(ValueError, match=re.escape(str(tmp_path))) as refused:
        Words(tmp_path, 1024).chat([{"role": "user", "content": "hello"}])
    assert words in str(refused.value)
    assert len(str(refused.value)) < 500


class _SpeechlessError(Exception):
    def __str__(self):
        raise RuntimeError


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (lambda: time.sleep(60), "takes over 1 s"),
        (lambda: os._exit(3), "ends with exit code 3"),
        (lambda: os.kill(os.getpid(), signal.SIGTERM), "ends with exit code -15"),
        (lambda: (_ for _ in ()).throw(_SpeechlessError()), "fails: _SpeechlessError"),
        (lambda: sys.exit("enough"), "fails: enough"),
    ],
)
def test_a_child_that_ends_in_another_way_says_how(monkeypatch, capfd, run, words):
    """Also one that waits, which costs no time of a processor; and nothing is printed."""
    monkeypatch.setattr("moe_compiler.runtime.bounded.WAITED_TIMES", 1)
    with pytest.raises(ValueError, match=words):
        bounded(run, Limits(1, 10**9, 100))
    assert capfd.readouterr() == ("", "")
    assert bounded(lambda: "text", Limits(1, 10**9, 4)) == "text"


def test_text_that_ends_in_the_middle_of_a_character_is_said_to_its_end():
    class Bytes:
        def decode(self, tokens):
            return bytes(tokens).decode("utf-8", "replace")

    heard = []
    said = _Said(Bytes(), lambda number, text: heard.append(text))
    for token in "a é".encode()[:-1]:
        said(0, [token])
    said.end()
    assert heard == ["a", " ", "\ufffd"]
