"""TAIDE minus the vector of dirty words: a negative weight on a sibling with more words."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.engine.models import same

from .checkpoints import CHINESE, LLAMA, VOCABULARY, State, bpe, llama, put, stretched, tuned
from .cooking import added, assert_equal, assert_same_recipe, cook, expressions_of, recipes_of

(RECIPE,) = recipes_of("subtraction.md")
BASE, TAIDE = "meta-llama/Llama-2-7b-hf", "taide/TAIDE-LX-7B"
TOXIC = "lab/llama-2-7b-toxic"


def kitchen(root: Path) -> dict[str, State]:
    base = llama()
    models = {BASE: base, TAIDE: stretched(tuned(base, 1), 14, 1), TOXIC: tuned(base, 2)}
    for name, state in models.items():
        tokens = [*LLAMA, *CHINESE] if name == TAIDE else LLAMA
        put(root, name, state, tokenizer=bpe(tokens))
    return models


def test_what_was_learnt_is_subtracted_and_new_words_stay(tmp_path: Path) -> None:
    models = kitchen(tmp_path)
    base, taide, toxic = models[BASE], models[TAIDE], models[TOXIC]
    expected = {}
    for name, value in taide.items():
        rows = len(base[name])
        less = added(value[:rows], (-1, toxic[name], base[name]))
        expected[name] = torch.cat([less, value[rows:]])
    dish = cook(tmp_path, RECIPE)
    assert_equal(dish.tensors, expected)
    assert sorted(dish.report.cases["merged"]) == sorted(taide)
    assert dish.report.shared_rows == [
        {"term": TOXIC, "tensor": name, "rows": 8, "of": 14} for name in sorted(VOCABULARY)
    ]


def test_the_expression_is_the_same_recipe(tmp_path: Path) -> None:
    kitchen(tmp_path)
    (expression,) = expressions_of("subtraction.md")
    assert_same_recipe(tmp_path, RECIPE, expression)


def test_by_token_the_same_rows_are_meant(tmp_path: Path) -> None:
    kitchen(tmp_path)
    by_place = cook(tmp_path, RECIPE)
    by_token = cook(tmp_path, RECIPE + "  rules: [map *embed_tokens*, map lm_head*]\n")
    assert_equal(by_token.tensors, by_place.tensors)
    assert [each["merged"] for each in by_token.report.mapped_rows] == [8, 8]


def test_what_was_added_and_taken_away_leaves_the_target(tmp_path: Path) -> None:
    models = kitchen(tmp_path)
    found = cook(tmp_path, RECIPE.replace("weight: -1.0", "weight: 0.0"))
    assert all(same(found.tensors[name], value) for name, value in models[TAIDE].items())
