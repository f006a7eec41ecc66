"""Recipes as text: expressions, mergekit's YAML, the command."""

from __future__ import annotations

import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest
import torch

from merging.engine.errors import RecipeError
from merging.engine.expression import parse_expression
from merging.engine.mergekit import read_yaml
from merging.engine.recipe import make_recipe, recipe_from_json
from tests.engine.models import foundation, save, tuned

YAML = """
merge_method: task_arithmetic
base_model: base
models:
  - model: base
  - model: a
    parameters: {weight: 0.5}
dtype: float32
"""


def test_expressions_are_sums_of_signed_names() -> None:
    found = parse_expression("ann/a-b + 0.5*bo/c − (d + 2 x)").summands
    assert [(each.name, each.coefficient) for each in found] == [
        ("ann/a-b", Decimal(1)),
        ("bo/c", Decimal("0.5")),
        ("d", Decimal(-1)),
        ("x", Decimal(-2)),
    ]


@pytest.mark.parametrize(
    ("text", "place"), [("a +", "a +▸"), ("a b", "a ▸b"), ("(a", "▸(a"), ("a * b", "a * ▸b")]
)
def test_an_error_points_at_its_place(text: str, place: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_expression(text)
    assert place in str(caught.value)


def test_equal_recipes_have_one_hash() -> None:
    def of(*terms: tuple[str, str]) -> str:
        return make_recipe(foundation="f", target="f", terms=terms).hash

    assert of(("a", "1"), ("b", "0.50")) == of(("a", "0.4"), ("b", "0.5"), ("a", "0.6"))
    assert of(("a", "1"), ("b", "1")) != of(("b", "1"), ("a", "1"))
    recipe = make_recipe(
        foundation="f", target="t", terms=[("a", "-0.5")], parameters={"lambda": 2}
    )
    assert recipe_from_json(recipe.to_json()) == recipe


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("parametres: {}", "parametres"),
        ("parameters: {density: 0.5}", "density"),
        ("chat_template: auto", "auto"),
        ("dtype: int8", "int8"),
    ],
)
def test_a_key_that_is_not_understood_is_named(line: str, named: str) -> None:
    def read() -> None:
        document = read_yaml(YAML.replace("dtype: float32", line))
        make_recipe(foundation="f", target="f", terms=[("a", "1")], parameters=document.parameters)

    with pytest.raises(RecipeError, match=named):
        read()


def run_command(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "merging", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_merges_folders_and_leaves_nothing_when_it_cannot(tmp_path: Path) -> None:
    base = foundation(torch.bfloat16)
    save(base, tmp_path / "base")
    save(tuned(base, 1), tmp_path / "a")
    (tmp_path / "base" / "config.json").write_text("{}")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(YAML.replace("dtype: float32", "out_dtype: bfloat16"))
    done = run_command(recipe, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "config.json",
        "model.safetensors",
        "recipe.yaml",
    }
    weights = tmp_path / "a" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    failed = run_command(recipe, tmp_path / "out2")
    assert failed.returncode == 1
    assert "cut off" in failed.stderr.replace("\n", " ")
    assert not list(tmp_path.glob("*out2*"))


def test_the_engine_stands_alone() -> None:
    code = (
        "import merging.engine.run, merging.engine.local, sys;"
        "print([m for m in ('django', 'celery', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
