"""Adding: skills of several fine-tunes in one model, and the soup of one skill."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from merging.engine.errors import MergeError
from tests.engine.models import same

from .checkpoints import State, llama, put, tuned
from .cooking import (
    added,
    assert_equal,
    assert_same_recipe,
    averaged,
    cook,
    expressions_of,
    recipes_of,
)

ADD, SOUP = recipes_of("addition.md")


def kitchen(root: Path) -> dict[str, State]:
    base = llama()
    models = {"mistralai/Mistral-7B-v0.1": base}
    for seed, name in enumerate(("math", "code", "math-2", "math-3")):
        models[f"lab/mistral-{name}"] = tuned(base, seed)
    for name, state in models.items():
        put(root, name, state)
    return models


def test_two_skills_are_added_by_weight(tmp_path: Path) -> None:
    models = kitchen(tmp_path)
    base = models["mistralai/Mistral-7B-v0.1"]
    math, code = models["lab/mistral-math"], models["lab/mistral-code"]
    dish = cook(tmp_path, ADD)
    assert sorted(dish.report.cases["merged"]) == sorted(base)
    assert_equal(
        dish.tensors,
        {
            name: added(base[name], (0.6, math[name], base[name]), (0.4, code[name], base[name]))
            for name in base
        },
    )


def test_the_expressions_are_the_same_recipes(tmp_path: Path) -> None:
    kitchen(tmp_path)
    for recipe, expression in zip((ADD, SOUP), expressions_of("addition.md"), strict=True):
        assert_same_recipe(tmp_path, recipe, expression)


def test_a_soup_is_the_weighted_average(tmp_path: Path) -> None:
    models = kitchen(tmp_path)
    weights = {"lab/mistral-math": 1, "lab/mistral-math-2": 1, "lab/mistral-math-3": 2}
    dish = cook(tmp_path, SOUP)
    assert sorted(dish.report.cases["merged"]) == sorted(models["lab/mistral-math"])
    assert_equal(
        dish.tensors,
        {
            name: averaged(*((weight, models[each][name]) for each, weight in weights.items()))
            for name in models["lab/mistral-math"]
        },
    )


def test_a_value_head_of_one_vector_does_not_vanish_in_silence(tmp_path: Path) -> None:
    models = kitchen(tmp_path)
    head = {"v_head.weight": torch.ones(1, 4)}
    put(tmp_path, "lab/mistral-code", models["lab/mistral-code"] | head)
    with pytest.raises(MergeError, match=r"lab/mistral-code has `v_head.weight`, .* would vanish"):
        cook(tmp_path, ADD)
    dish = cook(tmp_path, ADD + "armory: {rules: [drop v_head*]}\n")
    assert dish.report.left_out == {"lab/mistral-code": ["v_head.weight"]}
    assert sorted(dish.tensors) == sorted(models["lab/mistral-code"])
    dish = cook(tmp_path, ADD + "armory: {rules: [take v_head* from lab/mistral-code]}\n")
    assert dish.report.cases["taken"] == ["v_head.weight"]
    assert same(dish.tensors["v_head.weight"], head["v_head.weight"])
