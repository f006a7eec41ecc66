"""A text reward model put on a vision-language model, around its cross-attention layers."""

from __future__ import annotations

from pathlib import Path

import pytest

from merging.engine.errors import MergeError
from tests.engine.models import same

from .checkpoints import State, llama, put, reward_model, stretched, vision_llama
from .cooking import Dish, added, assert_equal, assert_same_recipe, cook, expressions_of, recipes_of

(RECIPE,) = recipes_of("reward-and-vision.md")
BASE, REWARD = "meta-llama/Llama-3.1-8B", "allenai/Llama-3.1-Tulu-3-8B-RM"
VISION = "meta-llama/Llama-3.2-11B-Vision-Instruct"
INSERTED = range(3, 40, 5)  # 3, 8, … 38: cross-attention of the 11B model
EMBEDDING = "language_model.model.embed_tokens.weight"


@pytest.fixture(scope="module")
def kitchen(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, State]]:
    root = tmp_path_factory.mktemp("models")
    base = llama(layers=32)
    pictures = vision_llama(base, INSERTED, 1)
    models = {
        BASE: base,
        # Eight rows more for the picture's token, in the embedding alone.
        VISION: stretched(pictures, 16, 1, [EMBEDDING]),
        # The trainer padded the embedding to a multiple of 64.
        REWARD: reward_model(stretched(base, 64, 2), 2),
    }
    for name, state in models.items():
        put(root, name, state)
    return root, models


def expected_of(models: dict[str, State], weight: float = 0.5) -> State:
    base, reward, expected = models[BASE], models[REWARD], dict(models[VISION])
    places = [at for at in range(40) if at not in INSERTED]
    for name, value in base.items():
        if name == "lm_head.weight":
            continue
        parts = name.split(".")
        if parts[1] == "layers":
            parts[2] = str(places[int(parts[2])])
        goal = "language_model." + ".".join(parts)
        target = expected[goal].clone()
        rows = len(value)
        target[:rows] = added(target[:rows], (weight, reward[name][:rows], value))
        expected[goal] = target
    return expected | {"score.weight": reward["score.weight"]}


@pytest.fixture(scope="module")
def dish(kitchen: tuple[Path, dict[str, State]]) -> Dish:
    return cook(kitchen[0], RECIPE)


def test_the_language_part_is_merged_layer_by_layer(
    kitchen: tuple[Path, dict[str, State]], dish: Dish
) -> None:
    assert_equal(dish.tensors, expected_of(kitchen[1]))


def test_the_report_tells_sight_from_language(
    kitchen: tuple[Path, dict[str, State]], dish: Dish
) -> None:
    _root, models = kitchen
    report = dish.report
    inserted = tuple(f"language_model.model.layers.{at}." for at in INSERTED)
    sight = [
        n for n in models[VISION] if not n.startswith("language_model.") or n.startswith(inserted)
    ]
    assert sorted(report.cases["kept"]) == sorted(sight)
    assert report.cases["untouched"] == ["language_model.lm_head.weight"]
    assert report.cases["taken"] == ["score.weight"]
    assert len(report.cases["merged"]) == 32 * 9 + 2
    assert report.shared_rows == [{"term": REWARD, "tensor": EMBEDDING, "rows": 8, "of": 16}]
    assert (report.dropped, report.unfounded, report.left_out) == ({}, {}, {})
    # One count a tensor, however many models the rule renames.
    assert [each["tensors"] for each in report.rules] == [32 * 9, 2, 1, 1, 1]


def test_the_expression_is_the_same_recipe(kitchen: tuple[Path, dict[str, State]]) -> None:
    (expression,) = expressions_of("reward-and-vision.md")
    assert_same_recipe(kitchen[0], RECIPE, expression)


def test_the_vision_model_may_be_one_of_the_vectors(kitchen: tuple[Path, dict[str, State]]) -> None:
    """Its own vector at another weight; `rename` leaves a model alone that is the target."""
    root, models = kitchen
    recipe = RECIPE.replace("weight: 1.0", "weight: -0.3").replace(
        "armory:", "parameters: {lambda: 1.0, normalize: false}\narmory:"
    )
    everything = "rename * to language_model.*"
    recipe = recipe.replace("rename model.* to language_model.model.*", everything)
    recipe = recipe.replace("    - rename lm_head.* to language_model.lm_head.*\n", "")
    recipe = recipe.replace("score.weight", "language_model.score.weight")
    dish = cook(root, recipe)
    name = "model.layers.31.mlp.up_proj.weight"
    goal = "language_model.model.layers.39.mlp.up_proj.weight"
    base, vision, reward = models[BASE][name], models[VISION][goal], models[REWARD][name]
    assert same(dish.tensors[goal], added(vision, (-0.3, vision, base), (0.5, reward, base)))
    assert dish.report.dropped == dish.report.unfounded == {}


def test_a_layer_without_a_place_is_named(kitchen: tuple[Path, dict[str, State]]) -> None:
    with pytest.raises(MergeError, match=r"31 layer numbers, but there is `model\.layers\.31\."):
        cook(kitchen[0], RECIPE.replace(", 39]", "]"))


def test_two_layers_in_one_place_are_named(kitchen: tuple[Path, dict[str, State]]) -> None:
    with pytest.raises(MergeError) as caught:
        cook(kitchen[0], RECIPE.replace("[0, 1, 2, 4,", "[0, 1, 2, 2,"))
    text = str(caught.value)
    assert "`model.layers.2." in text
    assert "`model.layers.3." in text
    assert "both be `language_model.model.layers.2." in text
