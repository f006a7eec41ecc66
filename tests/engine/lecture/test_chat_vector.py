"""Chat vector: θ_zh + (θ_chat − θ), on a target whose vocabulary was extended."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from merging.engine.errors import MergeError
from tests.engine.models import same

from .checkpoints import CHINESE, LLAMA, VOCABULARY, State, bpe, llama, put, stretched, tuned
from .cooking import added, assert_equal, assert_same_recipe, cook, expressions_of, recipes_of

SKIP, MAP, ROWS = recipes_of("chat-vector.md")
BASE, ZH = "meta-llama/Llama-2-7b-hf", "lab/llama-2-7b-zh"
CHAT, CHATML = "meta-llama/Llama-2-7b-chat-hf", "lab/llama-2-7b-chatml"
# Behind LLaMA's eight tokens: words there, marks here; the mark both have is in other rows.
ZH_TOKENS = bpe([*LLAMA, *CHINESE], {"[PAD]": 12, "<|turn|>": 13})
CHATML_TOKENS = bpe(LLAMA, {"<|im_start|>": 8, "<|im_end|>": 9, "[PAD]": 10})
TURN = 13
TEMPLATE = "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}"


def kitchen(root: Path) -> dict[str, State]:
    base = llama()
    models = {
        BASE: base,
        ZH: stretched(tuned(base, 1), 16, 1),  # fourteen tokens, padded to a multiple of 8
        CHAT: tuned(base, 2),
        CHATML: stretched(tuned(base, 3), 11, 3),
    }
    put(root, BASE, models[BASE], tokenizer=bpe(LLAMA))
    put(root, CHAT, models[CHAT], tokenizer=bpe(LLAMA))
    put(root, ZH, models[ZH], tokenizer=ZH_TOKENS)
    put(root, CHATML, models[CHATML], tokenizer=CHATML_TOKENS)
    return models


def summed(models: Mapping[str, State], vector: str) -> State:
    """The chat vector on everything but the vocabulary, which is the target's."""
    target, chat, base = models[ZH], models[vector], models[BASE]
    return {
        name: value if name in VOCABULARY else added(value, (1, chat[name], base[name]))
        for name, value in target.items()
    }


def test_vocabulary_tensors_are_left_to_the_target(tmp_path: Path) -> None:
    models = kitchen(tmp_path)
    dish = cook(tmp_path, SKIP)
    assert_equal(dish.tensors, summed(models, CHAT))
    assert sorted(dish.report.cases["untouched"]) == sorted(VOCABULARY)
    assert sorted(dish.report.cases["merged"]) == sorted(set(models[BASE]) - set(VOCABULARY))
    assert [each["tensors"] for each in dish.report.rules] == [1, 1]
    assert not dish.report.shared_rows, "a skipped tensor shares no rows"
    assert json.loads(Path(dish.files["tokenizer.json"]).read_text()) == ZH_TOKENS


def test_the_expressions_are_the_same_recipes(tmp_path: Path) -> None:
    kitchen(tmp_path)
    for recipe, expression in zip((SKIP, MAP), expressions_of("chat-vector.md"), strict=True):
        assert_same_recipe(tmp_path, recipe, expression)


def test_rows_are_matched_by_token(tmp_path: Path) -> None:
    models = kitchen(tmp_path)
    dish = cook(tmp_path, MAP)
    expected = summed(models, CHATML)
    for name in VOCABULARY:
        theirs, base = models[CHATML][name], models[BASE][name]
        expected[name] = torch.cat(
            [added(models[ZH][name][:8], (1, theirs[:8], base)), models[ZH][name][8:]]
        )
    assert_equal(dish.tensors, expected)
    told = {each["tensor"]: each for each in dish.report.mapped_rows}
    assert sorted(told) == sorted(VOCABULARY)
    for each in told.values():
        # [PAD] is in both fine-tunes, but the foundation has no row to subtract.
        assert (each["shared"], each["merged"], each["of"]) == (9, 8, 16)
        assert each["only_target"] == {"count": 5, "tokens": [*CHINESE, "<|turn|>"]}
        assert each["only_source"]["tokens"] == ["<|im_start|>", "<|im_end|>"]


def test_tokens_in_another_order_find_their_rows(tmp_path: Path) -> None:
    models = kitchen(tmp_path)
    put(tmp_path, ZH, models[ZH], tokenizer=bpe([*CHINESE, *LLAMA], {"<|turn|>": 12}))
    dish = cook(tmp_path, MAP)
    for name in VOCABULARY:
        target, theirs, base = (models[each][name] for each in (ZH, CHATML, BASE))
        middle = added(target[4:12], (1, theirs[:8], base))
        assert same(dish.tensors[name], torch.cat([target[:4], middle, target[12:]]))


def test_a_row_is_taken_from_the_fine_tune_not_from_its_base(tmp_path: Path) -> None:
    models = kitchen(tmp_path)
    # The foundation was padded, so it has a row 9 too: numbers that nothing ever trained.
    models[BASE] = stretched(models[BASE], 16, 9)
    put(tmp_path, BASE, models[BASE], tokenizer=bpe(LLAMA))
    dish = cook(tmp_path, ROWS)
    expected = summed(models, CHATML)
    for name in VOCABULARY:
        expected[name] = models[ZH][name].clone()
        expected[name][TURN] = models[CHATML][name][9]
        assert not same(models[CHATML][name][9], models[BASE][name][9])
    assert_equal(dish.tensors, expected)
    assert sorted(dish.report.cases["taken"]) == sorted(VOCABULARY)
    assert dish.report.taken_rows == [
        {"from": CHATML, "tensor": name, "rows": {"<|turn|>": "<|im_end|>"}, "of": 16}
        for name in sorted(VOCABULARY)
    ]


@pytest.mark.parametrize("weight", ["1.0", "0.5"])
def test_nothing_is_added_to_a_taken_row(tmp_path: Path, weight: str) -> None:
    """`</s>` is a token of all three, so its row would be merged as well."""
    models = kitchen(tmp_path)
    recipe = MAP.replace(
        f"{CHATML}\n    parameters: {{weight: 1.0", f"{CHATML}\n    parameters: {{weight: {weight}"
    )
    taking = f"""    - 'take *embed_tokens* from {CHATML} rows ["</s>", "[PAD]"]'\n"""
    dish = cook(tmp_path, recipe + taking)
    target, theirs, base = (models[each][VOCABULARY[0]] for each in (ZH, CHATML, BASE))
    expected = torch.cat([added(target[:8], (float(weight), theirs[:8], base)), target[8:]])
    expected[2], expected[12] = theirs[2], theirs[10]
    assert same(dish.tensors[VOCABULARY[0]], expected)
    assert VOCABULARY[0] in dish.report.cases["merged"]


def test_of_two_rules_for_one_row_the_first_counts(tmp_path: Path) -> None:
    models = kitchen(tmp_path)
    name = VOCABULARY[0]
    rules = f"""    - 'take {name} from {CHAT} rows ["</s>"]'
    - 'take {name} from {CHATML} rows ["</s>", "<s>"]'
"""
    found = cook(tmp_path, MAP + rules).tensors[name]
    assert same(found[2], models[CHAT][name][2])
    assert same(found[1], models[CHATML][name][1])


def test_a_lora_of_the_embedding_follows_its_tokens(tmp_path: Path) -> None:
    """Trained on the foundation, it has the foundation's rows and often no tokenizer."""
    models = kitchen(tmp_path)
    put(tmp_path, ZH, models[ZH], tokenizer=bpe([*CHINESE, *LLAMA]))
    place = "base_model.model.model.embed_tokens.lora_embedding_"
    factors = {f"{place}A": torch.eye(1, 8), f"{place}B": torch.ones(4, 1)}
    config = {"peft_type": "LORA", "r": 1, "lora_alpha": 1}
    put(tmp_path, "lab/lora", factors, "adapter_model", adapter_config=config)
    recipe = MAP.replace(CHATML, f"{BASE}+lab/lora").replace("    - map lm_head*\n", "")
    found, target = cook(tmp_path, recipe).tensors[VOCABULARY[0]], models[ZH][VOCABULARY[0]]
    assert same(found[4], (target[4].float() + 1).bfloat16()), "the row of the first token"
    assert same(found[:4], target[:4])
    assert same(found[5:], target[5:])


def test_a_taken_row_of_an_average_is_the_row(tmp_path: Path) -> None:
    models = kitchen(tmp_path)
    recipe = f"""
merge_method: linear
models:
  - {{model: {ZH}, parameters: {{weight: 0.7}}}}
  - {{model: {CHATML}, parameters: {{weight: 0.2}}}}
armory:
  rules:
    - map *embed_tokens*
    - skip lm_head*
    - 'take *embed_tokens* from {CHATML} rows ["</s>"]'
"""
    found = cook(tmp_path, recipe).tensors
    assert same(found[VOCABULARY[0]][2], models[CHATML][VOCABULARY[0]][2])
    assert not same(found[VOCABULARY[0]][1], models[CHATML][VOCABULARY[0]][1])
    assert same(found["lm_head.weight"], models[ZH]["lm_head.weight"])


def test_without_a_tokenizer_rows_cannot_be_matched(tmp_path: Path) -> None:
    kitchen(tmp_path)
    (tmp_path / CHATML / "tokenizer.json").unlink()
    for recipe in (MAP, ROWS):
        with pytest.raises(MergeError, match=f"tokens of {CHATML}.* add tokenizer.json"):
            cook(tmp_path, recipe)


def test_a_token_that_is_not_there_is_named(tmp_path: Path) -> None:
    kitchen(tmp_path)
    with pytest.raises(
        MergeError, match=rf"no row for the token `<\|eot\|>` in {CHATML} \(11 rows"
    ):
        cook(tmp_path, ROWS.replace('"<|im_end|>"', '"<|eot|>"'))
    with pytest.raises(MergeError, match=r"no row for the token `<\|im_end\|>` in the target"):
        cook(tmp_path, ROWS.replace('"<|turn|>"', '"<|im_end|>"'))


def test_template_and_end_mark_come_from_the_vector(tmp_path: Path) -> None:
    models = kitchen(tmp_path)
    put(
        tmp_path, ZH, models[ZH], tokenizer=bpe([*LLAMA, *CHINESE], {"<|im_end|>": 12}),
        tokenizer_config={"eos_token": "</s>"}, generation_config={"eos_token_id": 2},
    )  # fmt: skip
    put(
        tmp_path, CHATML, models[CHATML], tokenizer=CHATML_TOKENS,
        tokenizer_config={"eos_token": "<|im_end|>", "chat_template": TEMPLATE},
        generation_config={"eos_token_id": 9},
    )  # fmt: skip
    recipe = SKIP.replace(CHAT, CHATML).replace(
        "  rules:", f"  chat_template_from: {CHATML}\n  rules:"
    )
    found = cook(tmp_path, recipe).files
    assert found["tokenizer.json"] == tmp_path / ZH / "tokenizer.json"
    config = json.loads(found["tokenizer_config.json"])
    assert (config["eos_token"], config["chat_template"]) == ("<|im_end|>", TEMPLATE)
    assert json.loads(found["generation_config.json"]) == {"eos_token_id": 12}
