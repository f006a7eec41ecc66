"""Rules: which one counts, what they may not say, and rules on LoRAs and differences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from merging.engine.errors import MergeError, RecipeError
from merging.engine.rules import read_rule
from tests.engine.models import State, same

from .checkpoints import LLAMA, VOCABULARY, bpe, llama, put, reward_model, stretched, tuned
from .cooking import Dish, added, averaged, cook

BASE, MINE, OTHER = "lab/base", "lab/mine", "lab/other"
Q_PROJ = "model.layers.0.self_attn.q_proj.weight"


@pytest.fixture
def models(tmp_path: Path) -> dict[str, State]:
    base = llama()
    models = {BASE: base, MINE: tuned(base, 1), OTHER: tuned(base, 2)}
    for name, state in models.items():
        put(tmp_path, name, state, tokenizer=bpe(LLAMA))
    return models


def equipped(root: Path, *rules: str, target: str = BASE) -> Dish:
    """MINE + OTHER at 0.5 each on ``target``, by ``rules``."""
    listed = "".join(f"\n    - '{rule}'" for rule in rules)
    on = "" if target == BASE else f"\n  - {{model: {target}, parameters: {{weight: 1.0}}}}"
    return cook(
        root,
        f"""
merge_method: task_arithmetic
base_model: {BASE}
models:{on}
  - {{model: {MINE}, parameters: {{weight: 0.5}}}}
  - {{model: {OTHER}, parameters: {{weight: 0.5}}}}
armory:
  {"dtype" if target == BASE else "target"}: {"target" if target == BASE else target}
  rules: {listed or "[]"}
""",
    )


def halves(models: dict[str, State], name: str, mine: float = 0.5) -> torch.Tensor:
    base = models[BASE][name]
    return added(base, (mine, models[MINE][name], base), (0.5, models[OTHER][name], base))


# Errors


@pytest.mark.parametrize(
    "rule",
    ["skip *.attention.*", "keep lm_heads*", "merge *q_proj x 0.5", "drop *.bias",
     f"take score* from {MINE}", f"skip *rotary* of {MINE}", "rename transformer.* to model.*"],
)  # fmt: skip
def test_a_rule_that_matches_nothing_is_named(
    tmp_path: Path, models: dict[str, State], rule: str
) -> None:
    with pytest.raises(MergeError) as caught:
        equipped(tmp_path, "keep model.norm.weight", rule)
    assert str(caught.value) == f"The rule `{rule}` matches no tensor: check its pattern."


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("keep *embed_tokens*", "skip model.embed_tokens.weight"),
        ("skip *", f"take lm_head* from {MINE}"),
        ("drop lm_head*", f'take lm_head* from {MINE} rows {{"</s>":"</s>"}}'),
        (f"map * of {MINE}", f"skip lm_head* of {MINE}"),
        ("merge * x 0.5", f"merge *mlp* x 2 of {OTHER}"),
        ("rename model.* to model.*", "rename model.norm.* to model.norm.*"),
    ],
)
def test_a_rule_that_comes_too_late_is_named(
    tmp_path: Path, models: dict[str, State], first: str, second: str
) -> None:
    with pytest.raises(MergeError) as caught:
        equipped(tmp_path, first, second)
    assert str(caught.value).startswith(f"The rule `{second}` decides nothing: earlier rules")


@pytest.mark.parametrize("rule", ["skip * of {}", "merge * x 2 of {}", "map * of {}"])
def test_a_vector_that_is_not_in_the_recipe(
    tmp_path: Path, models: dict[str, State], rule: str
) -> None:
    put(tmp_path, "lab/stranger", models[BASE])
    with pytest.raises(RecipeError, match="names lab/stranger, which is no part of the recipe"):
        equipped(tmp_path, rule.format("lab/stranger"))


def test_a_model_that_is_not_there(tmp_path: Path, models: dict[str, State]) -> None:
    with pytest.raises(RecipeError, match="no folder lab/nobody"):
        equipped(tmp_path, "take lm_head* from lab/nobody")


def test_a_tensor_that_is_not_there_to_take(tmp_path: Path, models: dict[str, State]) -> None:
    put(tmp_path, "lab/reward", reward_model(models[BASE], 3))
    rule = "take lm_head.weight from lab/reward"
    with pytest.raises(MergeError) as caught:
        equipped(tmp_path, rule)
    assert str(caught.value) == f"The rule `{rule}`: lab/reward has no `lm_head.weight` to take."


def test_two_tensors_of_one_name(tmp_path: Path, models: dict[str, State]) -> None:
    with pytest.raises(MergeError) as caught:
        equipped(tmp_path, "rename model.layers.1.* to model.layers.0.*")
    name = "input_layernorm.weight"
    assert str(caught.value).startswith(
        f"`model.layers.0.{name}` and `model.layers.1.{name}` of lab/mine would both be "
        f"`model.layers.0.{name}`"
    )


def test_an_average_without_weights(tmp_path: Path, models: dict[str, State]) -> None:
    recipe = f"""
merge_method: linear
models:
  - {{model: {MINE}, parameters: {{weight: 0.5}}}}
  - {{model: {OTHER}, parameters: {{weight: 0.5}}}}
armory: {{rules: [merge lm_head* x 0]}}
"""
    with pytest.raises(
        MergeError, match=r"leave `lm_head.weight` no weight.*`keep lm_head.weight`"
    ):
        cook(tmp_path, recipe)


@pytest.mark.parametrize("rows", ['{"a": 5}', '{"a": null}', "[1]", "[]", "{}", '"a"', "[["])
def test_rows_are_tokens(rows: str) -> None:
    with pytest.raises(RecipeError, match=r"`rows` is a list of tokens|not JSON|cannot be read"):
        read_rule(f"take *embed* from m rows {rows}")


# The first rule counts


def test_rules_are_read_in_order(tmp_path: Path, models: dict[str, State]) -> None:
    put(tmp_path, "lab/donor", tuned(models[BASE], 9))
    dish = equipped(
        tmp_path,
        "keep model.layers.0.mlp.up_proj.weight",
        f"merge model.layers.0.* x 0.5 of {MINE}",
        "take model.layers.0.mlp.* from lab/donor",
        f"skip *self_attn* of {MINE}",
        f"skip *q_proj* of {OTHER}",
        "skip *layernorm*",
    )
    found, base, donor = dish.tensors, models[BASE], tuned(models[BASE], 9)
    assert same(
        found["model.layers.0.mlp.up_proj.weight"], base["model.layers.0.mlp.up_proj.weight"]
    )
    for part in ("gate", "down"):
        name = f"model.layers.0.mlp.{part}_proj.weight"
        assert same(found[name], donor[name])
    assert same(found[Q_PROJ], base[Q_PROJ])
    name = "model.layers.1.self_attn.k_proj.weight"
    assert same(found[name], added(base[name], (0.5, models[OTHER][name], base[name])))
    name = "model.layers.1.mlp.up_proj.weight"
    assert same(found[name], halves(models, name))
    assert dish.report.cases["kept"] == ["model.layers.0.mlp.up_proj.weight"]
    assert len(dish.report.cases["taken"]) == 2
    assert len(dish.report.cases["untouched"]) == 4 + 2
    assert [each["tensors"] for each in dish.report.rules] == [1, 8, 2, 8, 2, 4]


def test_a_dropped_tensor_is_not_added_again(tmp_path: Path, models: dict[str, State]) -> None:
    heads = {
        "score.weight": torch.ones(1, 4).bfloat16(),
        "value.weight": torch.ones(2, 4).bfloat16(),
    }
    put(tmp_path, "lab/heads", models[BASE] | heads)
    dish = equipped(
        tmp_path, "drop score*", "keep model.*", "keep lm_head*", "take * from lab/heads"
    )
    assert sorted(dish.tensors) == sorted([*models[BASE], "value.weight"])


def test_a_kept_tensor_need_not_fit(tmp_path: Path, models: dict[str, State]) -> None:
    wide = models[BASE] | {Q_PROJ: torch.zeros(6, 6).bfloat16()}
    put(tmp_path, "lab/target", wide)
    for rule in (f"keep {Q_PROJ}", f"skip {Q_PROJ}", f"merge {Q_PROJ} x 0"):
        found = equipped(tmp_path, rule, target="lab/target")
        assert same(found.tensors[Q_PROJ], wide[Q_PROJ])
    with pytest.raises(MergeError, match=f"`{Q_PROJ}` is 4 × 4 in {MINE}"):
        equipped(tmp_path, target="lab/target")


def test_a_kept_tensor_shares_no_rows(tmp_path: Path, models: dict[str, State]) -> None:
    put(tmp_path, "lab/target", stretched(models[BASE], 12, 1))
    report = equipped(tmp_path, "keep *embed_tokens*", target="lab/target").report
    assert {each["tensor"] for each in report.shared_rows} == {"lm_head.weight"}


def test_what_every_vector_skips_is_the_targets_in_an_average_too(
    tmp_path: Path, models: dict[str, State]
) -> None:
    target = stretched(tuned(models[BASE], 5), 12, 1)
    put(tmp_path, "lab/target", target, tokenizer=bpe(LLAMA))
    recipe = f"""
merge_method: linear
models:
  - {{model: {MINE}, parameters: {{weight: 0.5}}}}
  - {{model: {OTHER}, parameters: {{weight: 0.5}}}}
armory: {{foundation: {BASE}, target: lab/target, rules: [skip *embed_tokens*]}}
"""
    dish = cook(tmp_path, recipe)
    name = VOCABULARY[0]
    assert same(dish.tensors[name], target[name])
    assert dish.report.cases["untouched"] == [name]
    wanted = averaged((0.5, models[MINE][Q_PROJ]), (0.5, models[OTHER][Q_PROJ]))
    assert same(dish.tensors[Q_PROJ], wanted)


def test_a_head_of_target_and_vector_is_kept_and_said(
    tmp_path: Path, models: dict[str, State]
) -> None:
    """The foundation has no score, so there is no difference to add; nothing vanishes."""
    for seed, name in enumerate((MINE, "lab/target"), start=3):
        models[name] = reward_model(models[BASE], seed)
        put(tmp_path, name, models[name])
    dish = equipped(tmp_path, "drop lm_head*", target="lab/target")
    assert same(dish.tensors["score.weight"], models["lab/target"]["score.weight"])
    assert dish.report.unfounded == {MINE: ["score.weight"]}
    assert dish.report.cases["kept"] == ["score.weight"]
    dish = equipped(tmp_path, "drop lm_head*", f"take score* from {MINE}", target="lab/target")
    assert same(dish.tensors["score.weight"], models[MINE]["score.weight"])
    assert dish.report.unfounded == {}


def test_names_are_matched_for_taking_as_for_merging(
    tmp_path: Path, models: dict[str, State]
) -> None:
    prefixed = {f"language_model.{name}": value for name, value in models[BASE].items()}
    put(tmp_path, "lab/seeing", prefixed)
    dish = equipped(tmp_path, f"take *.q_proj.weight from {MINE}", target="lab/seeing")
    assert same(dish.tensors["language_model." + Q_PROJ], models[MINE][Q_PROJ])
    assert sorted(dish.tensors) == sorted(prefixed)


# LoRAs and differences


def lora(root: Path, name: str, **extra: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A LoRA of both q_proj and of layer 0's up_proj; ``extra`` are whole tensors."""
    generator = torch.Generator().manual_seed(7)
    state: State = {}
    for module, rows in (
        ("model.layers.0.self_attn.q_proj", 4),
        ("model.layers.1.self_attn.q_proj", 4),
        ("model.layers.0.mlp.up_proj", 6),
    ):
        place = f"base_model.model.{module}"
        state[f"{place}.lora_A.weight"] = torch.randn(2, 4, generator=generator)
        state[f"{place}.lora_B.weight"] = torch.randn(rows, 2, generator=generator)
    state |= {f"base_model.model.{key}": value for key, value in extra.items()}
    config: dict[str, Any] = {"peft_type": "LORA", "r": 2, "lora_alpha": 4}
    put(root, name, state, "adapter_model", adapter_config=config)
    first = "base_model.model.model.layers.0.self_attn.q_proj.lora_"
    return state[f"{first}A.weight"], state[f"{first}B.weight"]


def with_lora(root: Path, name: str, *rules: str) -> Dish:
    listed = "".join(f"\n    - '{rule}'" for rule in rules)
    return cook(
        root,
        f"""
merge_method: task_arithmetic
base_model: {BASE}
models:
  - {{model: {BASE}+{name}, parameters: {{weight: 1.0}}}}
armory:
  rules:{listed}
""",
    )


def test_rules_speak_of_a_lora_like_of_any_vector(tmp_path: Path, models: dict[str, State]) -> None:
    left, right = lora(tmp_path, "lab/lora")
    dish = with_lora(
        tmp_path,
        "lab/lora",
        "skip *up_proj* of lab/lora",
        "merge model.layers.0.* x 0.5 of lab/lora",
        "keep model.layers.1.*",
    )
    base = models[BASE]
    assert dish.report.cases["merged"] == [Q_PROJ]
    wanted = base[Q_PROJ].float() + 0.5 * 2 * (right @ left)
    torch.testing.assert_close(dish.tensors[Q_PROJ].float(), wanted, rtol=2**-8, atol=1e-3)
    assert all(same(dish.tensors[name], base[name]) for name in base if name != Q_PROJ)


def test_a_lora_is_renamed(tmp_path: Path, models: dict[str, State]) -> None:
    lora(tmp_path, "lab/lora")
    dish = with_lora(
        tmp_path,
        "lab/lora",
        "rename model.layers.{layer}.* to model.layers.{layer}.* of lab/lora layers [1, 0]",
    )
    assert sorted(dish.report.cases["merged"]) == [
        "model.layers.0.self_attn.q_proj.weight",
        "model.layers.1.mlp.up_proj.weight",
        "model.layers.1.self_attn.q_proj.weight",
    ]


def test_a_change_is_no_tensor_to_take(tmp_path: Path, models: dict[str, State]) -> None:
    lora(tmp_path, "lab/lora")
    put(tmp_path, "lab/delta", {Q_PROJ: torch.ones(4, 4)}, "delta")
    for name in ("lab/lora", "lab/delta"):
        for rows in ("", ' rows ["</s>"]'):
            rule = f"take {Q_PROJ} from {name}{rows}"
            with pytest.raises(MergeError, match=f"{name} holds a change of `{Q_PROJ}`"):
                equipped(tmp_path, rule)
    with pytest.raises(MergeError, match=r"lab/lora has no `lm_head.weight` to take"):
        equipped(tmp_path, "take lm_head* from lab/lora")


def test_a_head_trained_whole_beside_a_lora_is_taken(
    tmp_path: Path, models: dict[str, State]
) -> None:
    """A reward model trained as a LoRA: its score is one of PEFT's modules_to_save."""
    score = torch.ones(1, 4).bfloat16()
    lora(tmp_path, "lab/reward", **{"score.weight": score})
    dish = with_lora(tmp_path, "lab/reward", "take score* from lab/reward", "drop lm_head*")
    assert same(dish.tensors["score.weight"], score)
    assert dish.report.cases["taken"] == ["score.weight"]
    assert dish.report.removed == ["lm_head.weight"]
    with pytest.raises(MergeError, match=r"lab/reward has `score.weight`"):
        with_lora(tmp_path, "lab/reward", "drop lm_head*")
