"""The statistics of the table, against scipy and against chance."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from merging.checks.significance import change_of, mcnemar, share_of
from merging.checks.speech import words_right


@given(st.integers(0, 400), st.integers(0, 400))
def test_mcnemar_is_the_exact_binomial_test(won: int, lost: int) -> None:
    expected = binomtest(won, won + lost).pvalue if won + lost else 1.0
    assert mcnemar(won, lost) == pytest.approx(expected, rel=1e-9)


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_a_share_has_wilsons_interval(pair: tuple[int, int]) -> None:
    correct, n = pair
    found = share_of([1] * correct + [0] * (n - correct), [1] * n)
    expected = binomtest(correct, n).proportion_ci(0.95, "wilson")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_five_thousand_items_are_counted_exactly() -> None:
    before, after = [0] * 5000, [1] * 5000
    assert change_of(before, after, [1] * 5000).p == 0.0
    assert change_of(before, before, [1] * 5000).p == 1.0


def test_the_interval_of_a_change_holds_the_true_one_about_as_often_as_it_says() -> None:
    draw = random.Random(1)
    held = 0
    for _ in range(400):
        pairs = [(draw.random() < 0.7, draw.random() < 0.8) for _ in range(150)]
        found = change_of([int(a) for a, _ in pairs], [int(b) for _, b in pairs], [1] * 150)
        held += found.low <= 0.1 <= found.high
    assert 0.92 <= held / 400 <= 0.98


def test_transcripts_are_weighed_by_their_words() -> None:
    scores, weights = [9, 0, 7, 10], [10, 5, 8, 10]
    found = share_of(scores, weights)
    assert found.share == pytest.approx(26 / 33)
    assert found.low < found.share < found.high
    assert share_of(scores, weights) == found, "the same scores give the same interval"
    worse = change_of(scores * 20, [max(0, s - 2) for s in scores] * 20, weights * 20)
    assert worse.p < 0.01
    assert worse.high < 0


@pytest.mark.parametrize(
    ("heard", "said", "right"),
    [
        ("a b c", "a b c", 3),
        ("a x c", "a b c", 2),
        ("a c", "a b c", 2),
        ("a b b c", "a b c", 2),
        ("", "a b c", 0),
        ("x y z v w", "a b c", 0),
    ],
)
def test_words_right_are_the_words_less_the_edits(heard: str, said: str, right: int) -> None:
    assert words_right(heard.split(), said.split()) == right
