"""Recipes as one line."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from merging.engine.errors import RecipeError
from merging.engine.expression import MAX_LENGTH, parse_expression
from merging.engine.recipe import coefficient_text


def summands(text: str) -> list[tuple[str, str]]:
    return [
        (each.name, coefficient_text(each.coefficient)) for each in parse_expression(text).summands
    ]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a", [("a", "1")]),
        ("-a", [("a", "-1")]),
        ("+ a", [("a", "1")]),
        ("a + b - c", [("a", "1"), ("b", "1"), ("c", "-1")]),
        ("0.5*a", [("a", "0.5")]),
        ("0.5 a", [("a", "0.5")]),
        ("a*0.5", [("a", "0.5")]),
        ("a × .5 − 2 · b", [("a", "0.5"), ("b", "-2")]),
        ("2*a*3", [("a", "6")]),
        ("a - (b - c)", [("a", "1"), ("b", "-1"), ("c", "1")]),
        ("2(a - 0.5*(b + c))", [("a", "2"), ("b", "-1"), ("c", "-1")]),
        ("-(-a)", [("a", "1")]),
        ("a + a", [("a", "1"), ("a", "1")]),
        ("0*a", [("a", "0")]),
        ("  a\t+\nb ", [("a", "1"), ("b", "1")]),
    ],
)
def test_what_it_means(text: str, wanted: list[tuple[str, str]]) -> None:
    assert summands(text) == wanted


@pytest.mark.parametrize(
    "name",
    [
        "all-MiniLM-L6-v2",
        "ann/spam-filter",
        "ann/spam-filter@v2",
        "7b-chat",
        "0.5a",
        "3d/models",
        "a.b_c-d/e",
    ],
)
def test_a_minus_inside_a_name_belongs_to_it(name: str) -> None:
    assert summands(name) == [(name, "1")]
    assert summands(f"0.5*{name} - {name} -{name}") == [(name, "0.5"), (name, "-1"), (name, "-1")]


@pytest.mark.parametrize(
    ("text", "marked", "says"),
    [
        ("", "▸", "Expected the name of a vector"),
        ("   ", "   ▸", "Expected the name of a vector"),
        ("a +", "a +▸", "Expected the name of a vector"),
        ("a + + b", "a + ▸+ b", "Expected the name of a vector"),
        ("--a", "-▸-a", "Expected the name of a vector"),
        ("2", "2▸", "Expected the name of a vector"),
        ("2 - a", "2 ▸- a", "Expected the name of a vector"),
        ("a - 3 + b", "a - 3 ▸+ b", "Expected the name of a vector"),
        ("*a", "▸*a", "Expected the name of a vector"),
        ("a b", "a ▸b", "Expected + or -"),
        ("a)", "a▸)", "Expected + or -"),
        ("a, b", "a, ▸b", "Expected NAME=VALUE"),
        ("a*2*3", "a*2▸*3", "Expected + or -"),
        ("a * b", "a * ▸b", "Expected a number after *"),
        ("a *", "a *▸", "Expected a number after *"),
        ("b + (a - c", "b + ▸(a - c", "bracket is never closed"),
        ("((a)", "▸((a)", "bracket is never closed"),
        ("a = b", "a ▸= b", "Expected + or -"),
        ("a; rm -rf", "a▸; rm -rf", "Expected + or -"),
        ("a − × b", "a - ▸* b", "Expected the name of a vector"),
    ],
)
def test_an_error_points_at_its_place(text: str, marked: str, says: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_expression(text)
    assert says in str(caught.value)
    assert str(caught.value).endswith(f": {marked}")


@pytest.mark.parametrize("before", [50, 500, 3000])
def test_the_place_is_shown_in_a_long_expression(before: int) -> None:
    text = "a + " * (before // 4) + "wrong ! + " + "b + " * 200 + "c"
    with pytest.raises(RecipeError) as caught:
        parse_expression(text)
    assert "wrong ▸!" in str(caught.value)
    assert len(str(caught.value)) < 300


def test_sizes_are_bounded() -> None:
    longest = parse_expression("a+" * (MAX_LENGTH // 2 - 1) + "a")
    assert len(longest.summands) == MAX_LENGTH // 2
    with pytest.raises(RecipeError, match=f"has {MAX_LENGTH + 1} characters; at most {MAX_LENGTH}"):
        parse_expression("a" * (MAX_LENGTH + 1))
    assert summands("(" * 20 + "a" + ")" * 20) == [("a", "1")]
    with pytest.raises(RecipeError, match="Too many brackets"):
        parse_expression("(" * 1999 + "a" + ")" * 1999)


@pytest.mark.parametrize("text", ["101*a", "a*1000", "20*(20*a)", "9" * 300 + " a"])
def test_a_factor_out_of_range_is_refused(text: str) -> None:
    with pytest.raises(RecipeError, match="from -100 to 100"):
        parse_expression(text)


NAMES = st.from_regex(r"[a-z][a-z0-9.@/-]{0,8}[a-z]", fullmatch=True)
NUMBERS = st.decimals(0, 9, places=3).map(coefficient_text)


@st.composite
def expressions(draw: st.DrawFn, depth: int = 0) -> tuple[str, list[tuple[str, Decimal]]]:
    """A random expression and what it means."""
    space = draw(st.sampled_from([" ", "  ", "\n"]))
    text, meaning = "", []
    for number in range(draw(st.integers(1, 3))):
        sign = draw(st.sampled_from("+-" if number else ["", "-", "+"]))
        factor = Decimal(-1 if sign == "-" else 1)
        if depth < 2 and draw(st.booleans()):
            inner, parts = draw(expressions(depth=depth + 1))
            coefficient = draw(st.one_of(st.none(), NUMBERS))
            piece = f"({inner})" if coefficient is None else f"{coefficient}*({inner})"
            scale = factor * Decimal(coefficient or 1)
            meaning += [(name, scale * value) for name, value in parts]
        else:
            name, coefficient = draw(NAMES), draw(NUMBERS)
            form = draw(
                st.sampled_from(["{c}*{n}", "{c} {n}", "{n}*{c}", "{c} * {n}", "{n} × {c}"])
            )
            piece = form.format(c=coefficient, n=name)
            meaning.append((name, factor * Decimal(coefficient)))
        text += f"{space}{sign}{space}{piece}"
    return text, meaning


@given(expressions())
def test_any_expression_means_what_it_was_made_of(
    made: tuple[str, list[tuple[str, Decimal]]],
) -> None:
    text, meaning = made
    if any(abs(value) > 100 for _name, value in meaning):
        return
    found = parse_expression(text).summands
    assert [(each.name, each.coefficient) for each in found] == [
        (name, round(value, 9)) for name, value in meaning
    ]
    assert all(text[each.position :].startswith(each.name) for each in found)


@given(st.text('ab-+*(). 25×−@/[]{}=,:"~t', max_size=40))
def test_any_text_is_a_sum_or_one_error(text: str) -> None:
    try:
        found = parse_expression(text)
    except RecipeError:
        return
    assert all(abs(each.coefficient) <= 100 for each in found.summands)
