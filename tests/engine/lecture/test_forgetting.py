"""One's own vector at less than full strength: evenly, by layer, by name."""

from __future__ import annotations

from pathlib import Path

from .checkpoints import State, llama, put, tuned
from .cooking import added, assert_equal, assert_same_recipe, cook, expressions_of, recipes_of

EVENLY, GRADIENT, BY_NAME = recipes_of("forgetting.md")
ALIGNED, MINE = "meta-llama/Llama-3.1-8B-Instruct", "lab/my-fine-tune"


def kitchen(root: Path) -> tuple[State, State]:
    aligned = llama(layers=3)
    mine = tuned(aligned, 1)
    put(root, ALIGNED, aligned)
    put(root, MINE, mine)
    return aligned, mine


def layer_of(name: str) -> int | None:
    parts = name.split(".")
    return int(parts[2]) if parts[1] == "layers" else None


def test_a_part_of_the_vector(tmp_path: Path) -> None:
    aligned, mine = kitchen(tmp_path)
    expected = {name: added(value, (0.6, mine[name], value)) for name, value in aligned.items()}
    assert_equal(cook(tmp_path, EVENLY).tensors, expected)


def test_the_expressions_are_the_same_recipes(tmp_path: Path) -> None:
    kitchen(tmp_path)
    expressions = expressions_of("forgetting.md")
    for recipe, expression in zip((EVENLY, GRADIENT), expressions, strict=True):
        assert_same_recipe(tmp_path, recipe, expression)


def test_more_in_late_layers(tmp_path: Path) -> None:
    aligned, mine = kitchen(tmp_path)
    weights = {None: 0.2, 0: 0.2, 1: 0.6, 2: 1.0}
    expected = {
        name: added(value, (weights[layer_of(name)], mine[name], value))
        for name, value in aligned.items()
    }
    last = [name for name in mine if layer_of(name) == 2]
    expected |= {name: mine[name] for name in last}
    assert_equal(cook(tmp_path, GRADIENT).tensors, expected)


def test_by_name(tmp_path: Path) -> None:
    aligned, mine = kitchen(tmp_path)

    def expected(name: str) -> object:
        weight = (0.3 if "mlp" in name else 1.0) * (0.5 if layer_of(name) == 2 else 1)
        if layer_of(name) == 1:
            return aligned[name]
        return (
            mine[name] if weight == 1 else added(aligned[name], (weight, mine[name], aligned[name]))
        )

    dish = cook(tmp_path, BY_NAME)
    assert_equal(dish.tensors, {name: expected(name) for name in aligned})
    assert len(dish.report.cases["kept"]) == 9
    assert len(dish.report.cases["merged"]) == 2 * 9 + 3
    assert dish.report.rules == [
        {"rule": "keep model.layers.1.*", "tensors": 9},
        {"rule": "merge model.layers.2.* x 0.5", "tensors": 9},
    ]
