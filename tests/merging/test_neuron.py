"""The lecture's neuron: the engine's numbers are the sums one does by hand."""

from __future__ import annotations

from decimal import Decimal

import pytest

from merging.neuron import EXAMPLES, merge_neuron


def coefficients(a: str, b: str) -> list[Decimal]:
    return [Decimal(a), Decimal(b)]


def test_one_merge_works_and_the_other_does_not() -> None:
    ones = coefficients("1", "1")
    assert merge_neuron(EXAMPLES["works"], ones).works
    failed = merge_neuron(EXAMPLES["fails"], ones)
    assert [answer.kept for answer in failed.answers] == [False, False]


@pytest.mark.parametrize("key", sorted(EXAMPLES))
@pytest.mark.parametrize(("a", "b"), [("1", "1"), ("0.5", "-1.5"), ("0", "1"), ("0", "0")])
def test_the_weights_are_the_sum(key: str, a: str, b: str) -> None:
    example = EXAMPLES[key]
    one, other = example.makers
    summed = tuple(
        t + float(a) * u + float(b) * v
        for t, u, v in zip(example.foundation, one.vector, other.vector, strict=True)
    )
    assert merge_neuron(example, coefficients(a, b)).weights == pytest.approx(summed)


@pytest.mark.parametrize("key", sorted(EXAMPLES))
def test_a_maker_alone_keeps_their_own_answer(key: str) -> None:
    alone = merge_neuron(EXAMPLES[key], coefficients("1", "0"))
    assert alone.answers[0].kept
