"""Recipes: one name for what is one, another for what is not, and what no recipe may say."""

from __future__ import annotations

import json
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from merging.engine.errors import RecipeError
from merging.engine.methods import METHODS, get_method
from merging.engine.recipe import (
    MAX_TERMS,
    Recipe,
    coefficient_text,
    collapse,
    make_recipe,
    parse_coefficient,
    recipe_from_json,
)

TWO = [("a", "1"), ("b", "0.5")]


def recipe(terms: Any = TWO, **more: Any) -> Recipe:
    return make_recipe(**{"foundation": "f", "target": "f", "terms": terms} | more)


@pytest.mark.parametrize(
    ("terms", "more"),
    [
        ([("a", "1.000"), ("b", ".5")], {}),
        ([("a", 1), ("b", 0.5)], {}),
        ([("a", Decimal("1E0")), ("b", Decimal("0.50"))], {}),
        ([("a", "0.25"), ("b", "0.5"), ("a", "0.75")], {}),
        ([("a", "2"), ("b", "1"), ("b", "-0.5"), ("a", "-1")], {}),
        ([("c", "0"), *TWO, ("d", "3"), ("d", "−3")], {}),
        (TWO, {"method": "task_arithmetic"}),
        (TWO, {"parameters": {}}),
        (TWO, {"parameters": {"lambda": 1, "normalize": False}}),
        (TWO, {"parameters": {"lambda": 1.0}}),
    ],
)
def test_what_says_the_same_has_the_same_name(terms: Any, more: dict[str, Any]) -> None:
    assert recipe(terms, **more).hash == recipe().hash
    assert recipe(terms, **more).to_json() == recipe().to_json()


@pytest.mark.parametrize(
    "more",
    [
        {"terms": [("b", "0.5"), ("a", "1")]},
        {"terms": [("a", "1"), ("b", "0.500000001")]},
        {"terms": [("a", "1"), ("b", "-0.5")]},
        {"terms": [("a", "1"), ("c", "0.5")]},
        {"terms": [("a", "1")]},
        {"target": "t"},
        {"foundation": "g"},
        {"method": "linear"},
        {"parameters": {"lambda": 2}},
        {"parameters": {"normalize": True}},
        {"out_dtype": "F32"},
    ],
    ids=str,
)
def test_what_says_something_else_has_another_name(more: dict[str, Any]) -> None:
    assert recipe(**more).hash != recipe().hash


def test_the_name_stays_what_it_is() -> None:
    """Links to equipped models hold it, so it may not drift."""
    made = recipe(parameters={"lambda": 0.5}, target="t")
    assert made.to_json() == (
        '{"armory_recipe":1,"foundation":"f","method":"task_arithmetic",'
        '"parameters":{"lambda":0.5},"target":"t","terms":'
        '[{"coefficient":"1","vector":"a"},{"coefficient":"0.5","vector":"b"}]}'
    )
    assert made.hash == "fcba2289812a1aab2352edb0ea2800e6893014d9033b2b0ae98abaa34a22dbb2"


def test_the_order_of_the_terms_is_kept_where_they_first_stand() -> None:
    made = recipe([("c", "1"), ("a", "1"), ("b", "1"), ("a", "1")])
    assert [(term.ref, term.coefficient) for term in made.terms] == [("c", 1), ("a", 2), ("b", 1)]


@given(
    terms=st.lists(
        st.tuples(st.sampled_from("abcd"), st.decimals(-9, 9, places=9)), min_size=1, max_size=8
    ),
    factor=st.sampled_from([1, 0.5, -3]),
    target=st.sampled_from(["f", "t"]),
    out_dtype=st.sampled_from([None, "BF16"]),
)
def test_json_gives_the_recipe_back(
    terms: list[tuple[str, Decimal]], factor: float, target: str, out_dtype: str | None
) -> None:
    made = recipe(terms, parameters={"lambda": factor}, target=target, out_dtype=out_dtype)
    again = recipe_from_json(made.to_json())
    assert again == made
    assert again.hash == made.hash
    exact = {ref: sum(Fraction(c) for r, c in terms if r == ref) for ref, _c in terms}
    assert {term.ref: Fraction(term.coefficient) for term in made.terms} == {
        ref: total for ref, total in exact.items() if total
    }


@pytest.mark.parametrize("text", ["1,5", "half", "", "1/2", "--1", "0x1", "1e", "1 2", "½"])
def test_what_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(RecipeError, match="is not a number") as caught:
        parse_coefficient(text)
    assert text in str(caught.value)


@pytest.mark.parametrize("value", [True, None, [1], {"a": 1}, "x" * 10_000], ids=repr)
def test_what_is_no_text_is_refused_too(value: Any) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_coefficient(value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    "text",
    [
        "nan",
        "sNaN",
        "inf",
        "-Infinity",
        "100.01",
        "-101",
        "1e3",
        "9" * 500,
        "1e999999",
        "1e999999999",
    ],
)
def test_a_coefficient_out_of_range_is_refused(text: str) -> None:
    with pytest.raises(RecipeError, match="from -100 to 100"):
        parse_coefficient(text)


def test_repeated_terms_may_not_add_up_to_more_than_one_may_have() -> None:
    """Else the recipe's own JSON could not be read."""
    with pytest.raises(RecipeError, match="from -100 to 100"):
        recipe([("a", "60"), ("a", "60")])
    assert recipe([("a", "60"), ("a", "60"), ("a", "-60")]).terms[0].coefficient == 60


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        *(("1", "1"), ("1.50", "1.5"), ("-0", "0"), ("100", "100"), ("1e2", "100")),
        *(("-.25", "-0.25"), ("1e-9", "0.000000001"), (" 2 ", "2"), ("−2", "-2")),
    ],
)
def test_coefficients_have_one_notation(text: str, shown: str) -> None:
    assert coefficient_text(parse_coefficient(text)) == shown


def test_too_many_terms_are_refused() -> None:
    terms = [(str(number), "1") for number in range(MAX_TERMS)]
    assert len(recipe(terms).terms) == MAX_TERMS
    with pytest.raises(RecipeError, match=f"at most {MAX_TERMS} vectors; this one has 65"):
        recipe([*terms, ("more", "1")])


def test_unknown_methods_and_parameters_are_named() -> None:
    with pytest.raises(
        RecipeError, match=r"no method called tiez\. Known methods: .*linear, .*task"
    ):
        recipe(method="tiez")
    with pytest.raises(RecipeError, match=r"no parameter `densty`\. It takes: lambda, normalize"):
        recipe(parameters={"densty": 0.5})


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"lambda": 10.5}, "`lambda` is 10.5; it must be from -10 to 10"),
        ({"lambda": float("nan")}, "`lambda` is nan"),
        ({"lambda": "1"}, "`lambda` is a number"),
        ({"lambda": True}, "`lambda` is a number"),
        ({"lambda": None}, "`lambda` is a number"),
        ({"normalize": 1}, "`normalize` is true or false"),
        ({"normalize": "true"}, "`normalize` is true or false"),
    ],
    ids=str,
)
def test_a_parameter_of_the_wrong_kind_is_named(parameters: dict[str, Any], says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        recipe(parameters=parameters)


@pytest.mark.parametrize("value", [float("inf"), 10**400], ids=["inf", "10^400"])
def test_no_parameter_is_infinite(value: float) -> None:
    with pytest.raises(RecipeError, match="`r` is"):
        recipe(method="ramplus_tl", parameters={"r": value})


def test_a_sum_of_zero_cannot_be_normalised() -> None:
    """Exactly: 0.1 + 0.2 − 0.3 is zero here, whatever floating point says."""
    terms = [("a", "0.1"), ("b", "0.2"), ("c", "-0.3")]
    with pytest.raises(RecipeError, match="sum to zero"):
        recipe(terms, parameters={"normalize": True})
    with pytest.raises(RecipeError, match="sum to zero"):
        recipe(terms, method="linear")
    recipe(terms, method="linear", parameters={"normalize": False})


VALID = json.loads(recipe().to_json())


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "5", "null", '"a"', "[" * 100_000, "9" * 5000]
    + [json.dumps({k: v for k, v in VALID.items() if k != key}) for key in ("terms", "foundation")]
    + [
        json.dumps(VALID | change)
        for change in (
            {"terms": "ab"},
            {"terms": 5},
            {"terms": [{"vector": "a"}]},
            {"terms": [{"vector": ["a"], "coefficient": "1"}]},
            {"terms": [{"vector": "a", "coefficient": "x"}]},
            {"method": []},
            {"method": "tiez"},
            {"parameters": 5},
            {"parameters": ["lambda"]},
            {"parameters": "lambda"},
        )
    ],
)
def test_json_that_is_no_recipe_is_refused(text: str) -> None:
    with pytest.raises(RecipeError):
        recipe_from_json(text)


@pytest.mark.parametrize(
    ("made", "full", "single"),
    [
        (recipe([]), "", "f"),
        (recipe([], target="t"), "", "t"),
        (recipe([("a", "1")]), "a", "a"),
        (recipe([("a", "1")]), "", None),
        (recipe([("a", "0.5")]), "a", None),
        (recipe([("a", "1")], target="t"), "a", None),
        (recipe([("t", "-1")], target="t"), "", "f"),
        (recipe([("t", "-1"), ("a", "1")], target="t"), "a", "a"),
        (recipe([("a", "0.5")], parameters={"lambda": 2}), "a", "a"),
        (recipe([("a", "7")], parameters={"normalize": True}), "a", "a"),
        (recipe([("a", "1")], parameters={"lambda": 0}), "a", "f"),
        (recipe([("a", "1")], out_dtype="F32"), "a", None),
        (recipe([], out_dtype="F32"), "", None),
        (recipe([("f", "3")]), "", "f"),
        (recipe([("a", "3")], method="linear"), "a", "a"),
        (recipe([("a", "3")], method="linear"), "", None),
        (recipe([("a", "1"), ("f", "1")], method="linear"), "a", None),
        (recipe([("a", "2")], method="linear", parameters={"normalize": False}), "a", None),
    ],
    ids=lambda value: value.to_json() if isinstance(value, Recipe) else str(value),
)
def test_a_sum_that_is_one_checkpoint_is_known_by_algebra(
    made: Recipe, full: str, single: str | None
) -> None:
    assert collapse(made, set(full)) == single


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_documented_where_it_is_declared(name: str) -> None:
    method = get_method(name)
    assert method.name == name
    assert all((method.title, method.formula, method.help, method.source))
    for parameter in method.parameters:
        assert parameter.help
        assert parameter.required or parameter.check(parameter.default) == parameter.default
