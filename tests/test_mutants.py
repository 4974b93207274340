"""Every mutant can be made: what it changes is there, and so are its tests."""

import ast
from pathlib import Path

import pytest

from tests.mutants import MUTANTS, Mutant, mutated

TOP = Path(__file__).parent.parent


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_can_be_made(mutant: Mutant):
    original = (TOP / mutant.file).read_text()
    assert ast.dump(ast.parse(mutated(mutant, original))) != ast.dump(ast.parse(original))
    assert (TOP / mutant.tests.partition("::")[0]).exists()
