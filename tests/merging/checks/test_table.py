"""The words of the table and the choice of a sweep, on scores made by hand."""

from __future__ import annotations

from decimal import Decimal

import pytest

from merging.checks.sweep_table import best_of, curves_of
from merging.checks.table import CONTROL, TERM, Ability, kept_share, rows_of, shape_of, verdict
from vectors.probes import Item, Probe


def scores(right: int, n: int = 200) -> list[int]:
    """The first ``right`` of ``n`` items are right: a worse model loses the last of them."""
    return [1] * right + [0] * (n - right)


def probe(name: str, n: int = 200) -> Probe:
    items = tuple(Item(f"{name} {i}", ("a",)) for i in range(n))
    return Probe(name, "zero-shot", "accuracy", items, {"a": "one", "b": "other"})


@pytest.mark.parametrize(
    ("target", "equipped", "word"),
    [
        (120, 180, "learned"),
        (120, 127, "kept"),
        (120, 126, "kept"),  # six of six: p = 0.03
        (120, 128, "learned"),  # eight of eight: p = 0.008
        (180, 100, "forgotten"),
        (180, 84, "reversed"),  # Wilson's interval ends below a half
        (180, 90, "forgotten"),  # not surely below a half
    ],
)
def test_the_word_for_a_change(target: int, equipped: int, word: str) -> None:
    assert verdict(scores(target), scores(equipped), [1] * 200, 0.5) == word


def test_nothing_is_reversed_where_nothing_can_be_guessed() -> None:
    assert verdict(scores(180), scores(5), [1] * 200, None) == "forgotten"


def test_the_kept_share_is_of_the_vectors_own_gain() -> None:
    ones = [1] * 200
    assert kept_share(scores(100), scores(180), scores(172), ones) == 0.9
    assert kept_share(scores(100), scores(104), scores(150), ones) is None, "no gain to speak of"


def test_a_row_has_every_score_and_the_comparison() -> None:
    spam = Ability(probe("Spam"), TERM, "ann/spam", Decimal("0.700000000"), "alone-1")
    control = Ability(probe("Control"), CONTROL, "lab/base")
    found = {
        (spam.key, "target"): scores(100),
        (spam.key, "alone-1"): scores(180),
        (spam.key, "equipped"): scores(172),
        (control.key, "target"): scores(150),
        (control.key, "equipped"): scores(149),
    }
    first, second = rows_of([spam, control], ["target", "alone-1", "equipped"], found)
    assert (first["verdict"], first["kept_share"], first["change"]) == ("learned", 0.9, 0.36)
    assert first["scores"]["target"]["share"] == 0.5
    assert (first["coefficient"], second["coefficient"]) == ("0.7", None)
    assert second["verdict"] == "kept"
    assert second["change_low"] < 0 < second["change_high"]
    assert set(second["scores"]) == {"target", "equipped"}


def test_a_subtracted_vector_keeps_no_share() -> None:
    spam = Ability(probe("Spam"), TERM, "ann/spam", Decimal(-1), "alone-1")
    found = {
        (spam.key, model): scores(right)
        for model, right in (("target", 130), ("alone-1", 180), ("equipped", 100))
    }
    (row,) = rows_of([spam], ["target", "alone-1", "equipped"], found)
    assert (row["verdict"], row["kept_share"]) == ("forgotten", None)


@pytest.mark.parametrize(
    ("coefficients", "shape"),
    [("1", "one vector"), ("1 0.5", "addition"), ("-1 -1", "subtraction"),
     ("1 1 -1", "analogy"), ("1 -1", "sum")],
)  # fmt: skip
def test_the_shape_of_a_recipe(coefficients: str, shape: str) -> None:
    assert shape_of([Decimal(c) for c in coefficients.split()]) == shape


def sweep(*rows: tuple[int, int, int]) -> dict:
    """Scores of two vectors' abilities and a control at each setting; 100 → 180 alone."""
    found = {}
    for n, (one, two, control) in enumerate(rows):
        for ability, right in zip(ABILITIES, (one, two, control), strict=True):
            found[ability.key, f"setting-{n}"] = scores(right)
    for ability in ABILITIES[:2]:
        found[ability.key, "target"] = scores(100)
        found[ability.key, ability.alone] = scores(180)
    found[ABILITIES[2].key, "target"] = scores(150)
    return found


ABILITIES = [
    Ability(probe("One"), TERM, "a/one", Decimal(1), "alone-1"),
    Ability(probe("Two"), TERM, "a/two", Decimal(1), "alone-2"),
    Ability(probe("Control"), CONTROL, "lab/base"),
]


def best(*rows: tuple[int, int, int]) -> dict | None:
    settings = [[Decimal(n + 1), Decimal(1)] for n in range(len(rows))]
    return best_of(ABILITIES, settings, [f"setting-{n}" for n in range(len(rows))], sweep(*rows))


def test_the_best_setting_has_the_strongest_weakest_ability() -> None:
    found = best((180, 120, 150), (164, 156, 150), (150, 150, 150))
    assert found == {"index": 1, "weakest": 0.7, "control_loss": 0.0, "within": True}


def test_a_setting_that_costs_a_control_is_not_the_best() -> None:
    assert best((172, 172, 143), (150, 150, 145))["index"] == 1
    lost = best((172, 172, 130), (150, 150, 140))
    assert (lost["index"], lost["within"]) == (1, False)


@pytest.mark.parametrize(("right", "index", "weakest"), [
    ((100, 40), 0, 1.0),  # of two labels, half right is guessing
    ((40, 96), 1, 0.95),  # far below that, the answers are turned round
    ((140, 120), 1, 0.75),
])  # fmt: skip
def test_what_is_taken_away_is_best_forgotten(
    right: tuple[int, int], index: int, weakest: float
) -> None:
    taken = Ability(probe("One"), TERM, "a/one", Decimal(-1), "alone-1")
    found = {(taken.key, f"setting-{n}"): scores(each) for n, each in enumerate(right)}
    found[taken.key, "target"] = scores(180)
    settings = [[Decimal(-1)], [Decimal("-1.5")]]
    best = best_of([taken], settings, ["setting-0", "setting-1"], found)
    assert best is not None
    assert (best["index"], best["weakest"]) == (index, weakest)


def test_of_equals_the_smaller_coefficients() -> None:
    assert best((172, 172, 150), (172, 172, 150))["index"] == 0


def test_curves_have_a_point_for_each_setting() -> None:
    first, _second, control = curves_of(
        ABILITIES, ["setting-0", "setting-1"], sweep((140, 180, 150), (180, 140, 149))
    )
    assert [point["share"] for point in first["points"]] == [0.7, 0.9]
    assert first["kept"] == [0.5, 1.0]
    assert control["kept"] == [None, None]
    assert (first["target"]["share"], first["alone"]["share"]) == (0.5, 0.9)
