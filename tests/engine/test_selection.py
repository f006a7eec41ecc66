"""Exact thresholds: whatever the tensor, what sorting it would say."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from merging.engine import selection
from merging.engine.block import Workspace
from merging.engine.pieces import Difference, Piece, Stored
from merging.engine.selection import Question, Threshold, thresholds
from merging.engine.whole import Whole


@dataclass(frozen=True, eq=False)
class InMemory:
    """A tensor of a checkpoint that never was a file."""

    values: np.ndarray
    dtype: str
    name: str = "tensor"

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    @property
    def nbytes(self) -> int:
        return self.values.nbytes

    @property
    def count(self) -> int:
        return self.values.size

    def read_into(self, offset: int, buffer: memoryview) -> None:
        raw = self.values.reshape(-1).view(np.uint8)
        buffer[:] = raw[offset : offset + len(buffer)].data


def of_deltas(*deltas: np.ndarray) -> Whole:
    """A tensor whose terms are stored as these deltas, (n,) of float32 or float64."""
    dtype = "F32" if deltas[0].dtype == np.float32 else "F64"
    base = InMemory(np.zeros_like(deltas[0]), dtype)
    pieces: list[Piece | None] = [
        Stored(InMemory(delta, dtype), base, delta.size) for delta in deltas
    ]
    return Whole(base, pieces, deltas[0].dtype, Workspace())


def bf16(values: np.ndarray) -> np.ndarray:
    """Truncated to bfloat16, as uint16."""
    return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


def float32(stored: np.ndarray) -> np.ndarray:
    return (stored.astype(np.uint32) << 16).view(np.float32)


def of_models(base: np.ndarray, *models: np.ndarray) -> Whole:
    """A tensor whose terms are fine-tunes, all plain BF16."""
    theta = InMemory(bf16(base), "BF16")
    pieces: list[Piece | None] = [
        Difference(InMemory(bf16(model), "BF16"), theta, base.size) for model in models
    ]
    return Whole(theta, pieces, np.float32, Workspace())


def sorted_answer(values: np.ndarray, rank: int) -> float:
    return float(np.sort(np.abs(values))[-rank])


def values(answers: list[Threshold]) -> list[float]:
    return [answer.value for answer in answers]


def ranks_of(count: int) -> list[int]:
    return sorted({1, min(2, count), *(max(1, count // part) for part in (100, 5, 2)), count})


KINDS = {
    "normal": lambda g, n: g.standard_normal(n),
    "heavy tails": lambda g, n: g.standard_cauchy(n) ** 3,
    "few values": lambda g, n: np.round(g.standard_normal(n) * 3),
    "one value": lambda g, n: np.full(n, -0.25),
    "zeros": lambda g, n: np.zeros(n),
    "nearly all zero": lambda g, n: np.where(g.random(n) < 0.003, g.standard_normal(n), 0),
    "half of it one value": lambda g, n: np.where(g.random(n) < 0.5, 1, g.standard_normal(n)),
    "sorted": lambda g, n: np.sort(g.standard_normal(n)),
    "rows of different scale": lambda g, n: (
        g.standard_normal(n) * np.exp(3 * np.sin(np.arange(n) // 1000))
    ),
    "last tenth large": lambda g, n: g.standard_normal(n) * np.where(np.arange(n) > 0.9 * n, 99, 1),
    "tiny": lambda g, n: g.standard_normal(n) * 1e-42,
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("count", [1, 2, 1000, 65536, 65537, 300_000])
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_what_sorting_says(kind: str, count: int, dtype: type) -> None:
    generator = np.random.default_rng(3)
    rows = [KINDS[kind](generator, count).astype(dtype) for _ in range(2)]
    questions = [Question(k, rank) for k in range(2) for rank in ranks_of(count)]
    found = thresholds(of_deltas(*rows), questions)
    assert values(found) == [sorted_answer(rows[q.row], q.rank) for q in questions]
    for question, answer in zip(questions, found, strict=True):
        assert answer.above == np.count_nonzero(np.abs(rows[question.row]) > answer.value)
        assert answer.equal == np.count_nonzero(np.abs(rows[question.row]) == answer.value)


@pytest.mark.parametrize("kind", KINDS)
def test_differences_of_bfloat16_numbers(kind: str) -> None:
    generator = np.random.default_rng(4)
    base = generator.standard_normal(300_001)
    models = [base + 0.01 * KINDS[kind](generator, base.size) for _ in range(3)]
    deltas = [float32(bf16(model)) - float32(bf16(base)) for model in models]
    questions = [Question(k, rank) for k in (2, 0, 1) for rank in ranks_of(base.size)]
    found = thresholds(of_models(base, *models), questions)
    assert values(found) == [sorted_answer(deltas[q.row], q.rank) for q in questions]


FINITE = {"allow_nan": False, "allow_infinity": False}


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_tensor_in_small_pieces(data: st.DataObject) -> None:
    """With segments, samples and collections so small that every way through the code is taken."""
    numbers = st.one_of(
        st.floats(-4, 4, width=32), st.sampled_from([0.0, 0.5, 1.0]), st.floats(width=32, **FINITE)
    )
    row = np.array(data.draw(st.lists(numbers, min_size=1, max_size=400)), np.float32)
    row = np.resize(row, data.draw(st.integers(1, 1200)))
    ranks = data.draw(st.lists(st.integers(1, row.size), min_size=1, max_size=4))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "SEGMENT", data.draw(st.sampled_from([16, 64])))
        patch.setattr(selection, "CHUNK", 8)
        patch.setattr(selection, "CHUNKS", data.draw(st.sampled_from([1, 5])))
        patch.setattr(selection, "MAX_COLLECTED", data.draw(st.sampled_from([1, 20, 10**6])))
        found = thresholds(of_deltas(row), [Question(0, rank) for rank in ranks])
    assert values(found) == [sorted_answer(row, rank) for rank in ranks]
    for answer in found:
        assert answer.above == np.count_nonzero(np.abs(row) > answer.value)
        assert answer.equal == np.count_nonzero(np.abs(row) == answer.value)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_sample_that_misleads_costs_time_and_nothing_else(
    dtype: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = np.random.default_rng(5).standard_normal(200_000).astype(dtype)
    calls: list[int] = []
    slow = selection._by_digits

    def counted(whole: Whole, questions: list[Question], rows: selection.Rows) -> list[int]:
        calls.append(len(questions))
        return slow(whole, questions, rows)

    monkeypatch.setattr(selection, "_by_digits", counted)
    questions = [Question(0, 20_000), Question(0, 150_000)]
    expected = [sorted_answer(row, q.rank) for q in questions]
    assert values(thresholds(of_deltas(row), questions)) == expected
    assert calls == []
    monkeypatch.setattr(selection, "SPREADS", 0.0)
    monkeypatch.setattr(selection, "CHUNKS", 1)
    assert values(thresholds(of_deltas(row), questions)) == expected
    assert calls, "the sample did not mislead"


def test_what_is_no_number_is_the_largest() -> None:
    row = np.random.default_rng(6).standard_normal(100_000)
    row[777] = np.nan
    found = thresholds(of_deltas(row), [Question(0, 1), Question(0, 2)])
    assert np.isnan(found[0].value)
    assert found[1].value == np.nanmax(np.abs(row))


def test_collections_stay_small() -> None:
    """What is frequent is counted, never collected: a tensor of few values takes no memory."""
    generator = np.random.default_rng(7)
    for row in (np.round(generator.standard_normal(400_000) * 2), np.ones(400_000)):
        whole = of_deltas(row)
        low, high, room = selection._predict(whole, [Question(0, 80_000)], selection.deltas)
        tally = selection._Tally([Question(0, 80_000)], low, high, room)
        for block in whole.blocks():
            tally.add(block, selection.deltas)
        assert tally.filled[0] < 100


def test_no_question_no_answer() -> None:
    assert thresholds(of_deltas(np.ones(5)), []) == []


def test_other_rows_may_be_asked_about() -> None:
    row = np.random.default_rng(8).standard_normal(150_000)
    found = thresholds(
        of_deltas(row, row), [Question(0, 10)], lambda block: np.square(block.deltas()[:1])
    )
    assert found[0].value == np.sort(row**2)[-10]
