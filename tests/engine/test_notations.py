"""Three notations, one recipe: whatever is written as YAML, JSON or in a line is read back."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from merging.engine.document import recipe_of
from merging.engine.errors import RecipeError
from merging.engine.expression import WORDS, parse_expression
from merging.engine.expression_write import write_expression
from merging.engine.mergekit import base_is_input, read_yaml
from merging.engine.mergekit_write import write_yaml
from merging.engine.methods import METHODS, Parameter, get_method
from merging.engine.notation import document_of_expression, document_of_recipe
from merging.engine.recipe import Recipe, make_recipe, recipe_from_json
from merging.engine.slices import Part, make_stack, stack_of_document

FORMS = {"a": "full", "b": "delta", "c": "lora", "t": "full", "f": "full", "2.5": "full"}
NAMES = {"2.5": "2.5 odd name!"}
COEFFICIENTS = st.decimals(-100, 100, places=9).filter(bool)
PATTERNS = st.sampled_from(["mlp", "self_attn", "layers.0.", "a b", 'quo"te', "x*"])
RULES = ["skip *embed*", "keep norm", "drop head", "merge *mlp* x -0.5 of a",
         'take embed from f rows {"é":"b c"}']  # fmt: skip


def name_of(ref: str) -> str:
    return f"org/{NAMES.get(ref, ref)}"


REFS = {name_of(ref): ref for ref in FORMS}


def ref_of(model: str, lora: str | None) -> str:
    return REFS[lora or model]


def values(parameter: Parameter) -> st.SearchStrategy[Any]:
    """Any value the parameter takes."""
    if parameter.type is bool:
        return st.booleans()
    low = -5 if parameter.minimum is None else parameter.minimum
    high = 5 if parameter.maximum is None else parameter.maximum
    if parameter.type is int:
        return st.integers(int(low), int(high))
    return st.floats(low, high, allow_subnormal=False)


def schedules(parameter: Parameter) -> st.SearchStrategy[Any]:
    """A value, a gradient, or filters that end with a value for the rest."""
    value = values(parameter)
    setting = st.one_of(value, st.lists(value, min_size=1, max_size=4))
    conditions = st.lists(
        st.fixed_dictionaries({"filter": PATTERNS, "value": setting}), min_size=1, max_size=3
    )
    filtered = st.tuples(conditions, setting).map(lambda pair: [*pair[0], {"value": pair[1]}])
    return st.one_of(setting, filtered)


def some(parameters: list[Parameter]) -> st.SearchStrategy[dict[str, Any]]:
    """Some of the parameters, and all that are needed."""
    needed = {each.name: schedules(each) for each in parameters if each.required}
    rest = {each.name: schedules(each) for each in parameters if not each.required}
    return st.fixed_dictionaries(needed, optional=rest)


@st.composite
def recipes(draw: st.DrawFn, name: str) -> Recipe:
    """Any recipe of the method ``name``."""
    method = get_method(name)
    own = [each for each in method.parameters if each.scope == "term"]
    low, high = max(method.minimum_terms, 1), method.maximum_terms or 4
    # Where terms are put on the foundation, it is no term itself: YAML lists it as a reminder.
    possible = [ref for ref in FORMS if ref != "f" or base_is_input(method)]
    refs = draw(st.lists(st.sampled_from(possible), min_size=low, max_size=high, unique=True))
    terms = []
    for ref in refs:
        parameters = draw(some(own)) if draw(st.booleans()) else {}
        if method.weighted and draw(st.booleans()):
            parameters["weight"] = draw(schedules(Parameter("weight", float, None, "", -1, 1)))
        coefficient = draw(COEFFICIENTS) if method.weighted else Decimal(1)
        terms.append((ref, coefficient, parameters))
    rules = draw(st.lists(st.sampled_from(RULES), max_size=2)) if "a" in refs else []
    try:
        return make_recipe(
            foundation="f",
            target=draw(st.sampled_from(["f", "t"])),
            terms=terms,
            method=name,
            parameters=draw(some(list(method.parameters))),
            out_dtype=draw(st.sampled_from([None, "F32", "BF16", "F8_E4M3"])),
            rules=rules,
            seed=draw(st.integers(0, 2**53 - 1)),
        )
    except RecipeError:
        assume(False)
        raise


@pytest.mark.parametrize("name", METHODS)
def test_what_is_written_is_read_as_the_same_recipe(name: str) -> None:
    @settings(max_examples=25, deadline=None)
    @given(recipes(name))
    def check(recipe: Recipe) -> None:
        assert recipe_from_json(recipe.to_json()) == recipe
        line = write_expression(recipe, name_of)
        found = recipe_of(document_of_expression(parse_expression(line)), ref_of, REFS.get)
        assert found == recipe, line
        assert found.hash == recipe.hash
        if recipe.terms:
            text = write_yaml(recipe, name_of=name_of, form_of=FORMS.__getitem__, out_dtype="BF16")
            found = recipe_of(read_yaml(text), ref_of, REFS.get)
            assert found == recipe, text
            assert found.hash == recipe.hash
        named = document_of_recipe(recipe)
        assert recipe_of(named, lambda model, _lora: model, lambda ref: ref) == recipe

    check()


@pytest.mark.parametrize("name", METHODS)
def test_no_method_has_a_parameter_that_the_recipe_has(name: str) -> None:
    assert not {each.name for each in get_method(name).parameters} & {*WORDS, "armory"}


@st.composite
def stacks(draw: st.DrawFn, name: str) -> Recipe:
    """Any recipe of slices of the method ``name``."""
    method = get_method(name)
    own = [each for each in method.parameters if each.scope == "term"]
    parts = []
    for _number in range(draw(st.integers(1, 3))):
        low, high = max(method.minimum_terms, 1), method.maximum_terms or 3
        refs = draw(st.lists(st.sampled_from("abt"), min_size=low, max_size=high, unique=True))
        start, count = draw(st.integers(0, 9)), draw(st.integers(1, 9))
        foundation = refs[0] if base_is_input(method) else "f"
        layers = dict.fromkeys((foundation, *refs), (start, start + count))
        terms = [(ref, 1, draw(some(own)) if draw(st.booleans()) else {}) for ref in refs]
        parts.append(Part(foundation, terms, draw(some(list(method.parameters))), layers))
    try:
        return make_stack(parts, method=name, seed=draw(st.integers(0, 9)))
    except RecipeError:
        assume(False)
        raise


@pytest.mark.parametrize("name", METHODS)
def test_slices_are_read_as_they_were_written(name: str) -> None:
    @settings(max_examples=8, deadline=None)
    @given(stacks(name))
    def check(recipe: Recipe) -> None:
        assert recipe_from_json(recipe.to_json()) == recipe
        text = write_yaml(recipe, name_of=name_of, form_of=FORMS.__getitem__, out_dtype="BF16")
        found = stack_of_document(read_yaml(text), ref_of, REFS.get)
        assert found == recipe, text
        named = document_of_recipe(recipe)
        assert stack_of_document(named, lambda model, _lora: model, lambda ref: ref) == recipe
        with pytest.raises(RecipeError, match="use YAML"):
            write_expression(recipe, name_of)

    check()
