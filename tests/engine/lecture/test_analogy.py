"""SYN2REAL: θ_C + λ(τ_B − τ_A) on an encoder-decoder, and the difference as a vector."""

from __future__ import annotations

from pathlib import Path

import pytest

from merging.engine.local import equip_locally
from merging.engine.mergekit import read_yaml
from merging.engine.outputs import make_output, write_output
from tests.engine.models import State, same

from .checkpoints import put, tuned, whisper
from .cooking import added, assert_equal, assert_same_recipe, cook, expressions_of, recipes_of

ANALOGY, MEAN, DIFFERENCE, EQUIPPED = recipes_of("analogy.md")
BASE, C = "openai/whisper-small", "lab/whisper-law-synthetic"
B, A = "lab/whisper-home-real", "lab/whisper-home-synthetic"
B2, A2 = "lab/whisper-news-real", "lab/whisper-news-synthetic"
EMBEDDING = "model.decoder.embed_tokens.weight"


def kitchen(root: Path) -> dict[str, State]:
    base = whisper()
    models = {BASE: base}
    for seed, name in enumerate((A, B, C, A2, B2)):
        models[name] = tuned(base, seed)
    for name, state in models.items():
        put(root, name, state)
    return models


def analogy(models: dict[str, State], weight: float, *pairs: tuple[str, str]) -> State:
    base, target = models[BASE], models[C]
    return {
        name: added(
            target[name],
            *(
                (sign * weight, models[model][name], base[name])
                for real, synthetic in pairs
                for sign, model in ((1, real), (-1, synthetic))
            ),
        )
        for name in target
    }


def keep_difference(root: Path) -> None:
    """Run the page's second step: the difference, written as a vector's folder."""
    with equip_locally(read_yaml(DIFFERENCE), [root]) as local:
        output = make_output(local.equipment, "delta")
        write_output(local.equipment, output, root / "lab" / "synthetic-to-real")


def test_real_is_to_synthetic_what_it_was_elsewhere(tmp_path: Path) -> None:
    models = kitchen(tmp_path)
    dish = cook(tmp_path, ANALOGY)
    assert_equal(dish.tensors, analogy(models, 0.5, (B, A)))
    assert sorted(dish.report.cases["merged"]) == sorted(models[C])


def test_the_mean_of_two_differences(tmp_path: Path) -> None:
    models = kitchen(tmp_path)
    assert_equal(cook(tmp_path, MEAN).tensors, analogy(models, 0.25, (B, A), (B2, A2)))


def test_the_expressions_are_the_same_recipes(tmp_path: Path) -> None:
    kitchen(tmp_path)
    keep_difference(tmp_path)
    recipes = (ANALOGY, MEAN, EQUIPPED)
    for recipe, expression in zip(recipes, expressions_of("analogy.md"), strict=True):
        assert_same_recipe(tmp_path, recipe, expression)


def test_the_difference_equipped_is_the_analogy(tmp_path: Path) -> None:
    kitchen(tmp_path)
    keep_difference(tmp_path)
    assert_equal(cook(tmp_path, EQUIPPED).tensors, cook(tmp_path, ANALOGY).tensors)


@pytest.mark.parametrize("factor", [0.3, 0.7])
def test_with_any_lambda_it_is_the_same(tmp_path: Path, factor: float) -> None:
    kitchen(tmp_path)
    keep_difference(tmp_path)

    def with_lambda(models: str) -> str:
        return f"""
merge_method: task_arithmetic
base_model: {BASE}
models: {models}
parameters: {{lambda: {factor}}}
armory: {{target: {C}}}
"""

    three = (
        f"[{{model: {B}, parameters: {{weight: 1}}}}, {{model: {A}, parameters: {{weight: -1}}}}]"
    )
    one = "[{model: lab/synthetic-to-real, parameters: {weight: 1}}]"
    assert_equal(
        cook(tmp_path, with_lambda(one)).tensors, cook(tmp_path, with_lambda(three)).tensors
    )


def test_a_head_that_is_the_embedding_stored_twice(tmp_path: Path) -> None:
    """Whisper's files leave `proj_out` out, or store the embedding again under that name."""
    models = kitchen(tmp_path)
    plain = cook(tmp_path, ANALOGY).tensors
    for name in (C, B):
        put(tmp_path, name, models[name] | {"proj_out.weight": models[name][EMBEDDING]})
    dish = cook(tmp_path, ANALOGY)
    assert_equal(dish.tensors, plain | {"proj_out.weight": plain[EMBEDDING]})
    assert dish.report.tied == {
        "the foundation": {"proj_out.weight": EMBEDDING},
        A: {"proj_out.weight": EMBEDDING},
    }
    put(tmp_path, C, models[C])
    dish = cook(tmp_path, ANALOGY)
    assert_equal(dish.tensors, plain)
    assert dish.report.tied == {B: {"proj_out.weight": EMBEDDING}}
    assert same(dish.tensors[EMBEDDING], plain[EMBEDDING])
