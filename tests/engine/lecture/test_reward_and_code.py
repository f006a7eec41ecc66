"""DogeRM: a reward model and a code model averaged; the head stays, rows follow tokens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from merging.engine.errors import MergeError
from tests.engine.models import same

from .checkpoints import LLAMA, State, bpe, llama, put, reward_model, stretched, tuned
from .cooking import assert_equal, assert_same_recipe, averaged, cook, expressions_of, recipes_of

(RECIPE,) = recipes_of("reward-and-code.md")
REWARD, CODE = "lab/mistral-7b-reward", "lab/mistral-7b-code"
EMBEDDING = "model.embed_tokens.weight"
REWARD_TOKENS = bpe(LLAMA, {"[PAD]": 8, "<|good|>": 9})
CODE_TOKENS = bpe(LLAMA, {"<|fim|>": 8, "[PAD]": 9})


def kitchen(root: Path) -> tuple[State, State]:
    base = llama(layers=3)
    reward = reward_model(stretched(base, 16, 1), 1)  # padded to a multiple of 8
    code = tuned(stretched(base, 10, 2), 2)
    put(root, REWARD, reward, tokenizer=REWARD_TOKENS)
    put(root, CODE, code, tokenizer=CODE_TOKENS)
    return reward, code


def test_siblings_are_averaged_by_token(tmp_path: Path) -> None:
    reward, code = kitchen(tmp_path)
    dish = cook(tmp_path, RECIPE)
    expected = {
        name: averaged((0.7, value), (0.3, code[name]))
        for name, value in reward.items()
        if name not in ("score.weight", EMBEDDING)
    }
    rows = reward[EMBEDDING].clone()
    both = [*range(9)]  # LLaMA's tokens and [PAD]
    rows[both] = averaged((0.7, rows[both]), (0.3, code[EMBEDDING][[*range(8), 9]]))
    expected |= {"score.weight": reward["score.weight"], EMBEDDING: rows}
    assert same(rows[9:], reward[EMBEDDING][9:])
    assert_equal(dish.tensors, expected)


def test_the_report_says_what_became_of_heads_and_rows(tmp_path: Path) -> None:
    reward, _code = kitchen(tmp_path)
    dish = cook(tmp_path, RECIPE)
    report = dish.report
    assert report.cases["kept"] == ["score.weight"]
    assert sorted(report.cases["merged"]) == sorted(set(reward) - {"score.weight"})
    assert report.absent == {CODE: ["score.weight"]}
    assert report.left_out == {CODE: ["lm_head.weight"]}
    assert (report.dropped, report.removed) == ({}, [])
    assert report.rules == [
        {"rule": "map *embed_tokens*", "tensors": 1},
        {"rule": "drop lm_head*", "tensors": 1},
    ]
    (mapped,) = [each for each in report.mapped_rows if each["term"] == CODE]
    assert (mapped["merged"], mapped["of"]) == (9, 16)
    assert mapped["only_target"]["tokens"] == ["<|good|>"]
    assert mapped["only_source"]["tokens"] == ["<|fim|>"]
    assert json.loads(Path(dish.files["tokenizer.json"]).read_text()) == REWARD_TOKENS


def test_the_expression_is_the_same_recipe(tmp_path: Path) -> None:
    kitchen(tmp_path)
    (expression,) = expressions_of("reward-and-code.md")
    assert_same_recipe(tmp_path, RECIPE, expression)


def test_a_head_that_would_vanish_is_refused(tmp_path: Path) -> None:
    _reward, code = kitchen(tmp_path)
    with pytest.raises(MergeError, match=rf"{CODE} has `lm_head.weight`.*`drop lm_head.weight`"):
        cook(tmp_path, RECIPE.replace("    - drop lm_head*\n", ""))
    dish = cook(tmp_path, RECIPE.replace("drop lm_head*", f"take lm_head* from {CODE}"))
    assert same(dish.tensors["lm_head.weight"], code["lm_head.weight"])
    assert dish.report.cases["taken"] == ["lm_head.weight"]


def test_as_vectors_it_is_the_same_up_to_rounding(tmp_path: Path) -> None:
    """And a head that foundation and vector lack is the target's, not lost."""
    reward, code = kitchen(tmp_path)
    base = llama(layers=3)
    put(tmp_path, "base", base, tokenizer=bpe(LLAMA))
    dish = cook(
        tmp_path,
        f"""
merge_method: task_arithmetic
base_model: base
models:
  - {{model: {REWARD}, parameters: {{weight: -0.3}}}}
  - {{model: {CODE}, parameters: {{weight: 0.3}}}}
parameters: {{lambda: 1, normalize: false}}
armory: {{target: {REWARD}, rules: [map *embed_tokens*, drop lm_head*]}}
""",
    )
    for name in set(base) - {"lm_head.weight", EMBEDDING}:
        wanted = averaged((0.7, reward[name]), (0.3, code[name])).float()
        torch.testing.assert_close(dish.tensors[name].float(), wanted, rtol=2**-7, atol=1e-3)
    assert same(dish.tensors["score.weight"], reward["score.weight"])
    assert dish.report.dropped == dish.report.unfounded == {}
