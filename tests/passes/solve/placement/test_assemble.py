"""Layers that are put together by numbering their banks."""

from itertools import permutations, product

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from moe_passes.solve.placement.assemble import numbering


def total(held, number):
    result = np.zeros(held.shape[1])
    for row, banks in zip(held, number, strict=True):
        assert sorted(banks.tolist()) == list(range(held.shape[1]))
        result[banks] += row
    return result


@given(st.lists(st.lists(st.integers(0, 9), min_size=3, max_size=3), min_size=1, max_size=3))
@settings(max_examples=100, deadline=None)
def test_numberings_fit_and_come_close_to_the_best(rows):
    held = np.array(rows, dtype=float)
    orders = list(permutations(range(3)))
    best = min(total(held, np.array(choice)).max() for choice in product(orders, repeat=len(rows)))
    slack = best + np.ptp(held, axis=1).max()
    number = numbering(held, slack)
    assert number is not None, "within the largest difference of one layer"
    assert total(held, number).max() <= slack


def test_layers_that_fit_as_they_are_keep_their_numbers():
    held = np.array([[1.0, 2.0], [2.0, 1.0]])
    assert numbering(held, 3.0).tolist() == [[0, 1], [0, 1]]


def test_full_banks_of_one_layer_meet_empty_banks_of_another():
    held = np.array([[9.0, 8.0, 7.0], [6.0, 5.0, 4.0], [3.0, 2.0, 1.0]])
    assert held.sum(axis=0).max() == 18.0
    assert total(held, numbering(held, 16.0)).max() <= 16.0


def test_exchanges_mend_what_the_greedy_order_leaves():
    """Six layers of random parts are put within a quarter of the largest part of an even spread."""
    random = np.random.default_rng(0)
    for _ in range(50):
        held = random.integers(0, 100, size=(6, 8)).astype(float)
        spread, even = np.ptp(held, axis=1).max(), held.sum() / 8
        assert numbering(held, even + spread / 4) is not None


def test_what_cannot_fit_is_said():
    assert numbering(np.array([[4.0, 0.0], [4.0, 0.0], [4.0, 0.0]]), 7.0) is None
