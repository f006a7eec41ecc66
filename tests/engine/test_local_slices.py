"""Layers stacked and merged by slices: mergekit's frankenmerges, over real folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from merging.engine.recipe import recipe_from_json
from merging.engine.stacking import stacked_config
from tests.engine.folders import decoder, family, last_folder, merged, put, run, tuned
from tests.engine.models import same

Capsys = pytest.CaptureFixture[str]

STACK = """
slices:
  - sources:
    - model: base
      layer_range: [0, 3]
  - sources:
    - model: a
      layer_range: [1, 4]
merge_method: passthrough
"""
SHORTER = "    - {model: base, layer_range: [0, 2]}\nparameters: {weight: 1}\n"
ROLES = ("self_attn.q_proj", "mlp.up_proj", "input_layernorm")


def layer(state: dict[str, torch.Tensor], index: int) -> list[torch.Tensor]:
    return [state[f"model.layers.{index}.{role}.weight"] for role in ROLES]


def said(capsys: Capsys) -> str:
    return " ".join(capsys.readouterr().err.split())


def test_layers_are_stacked_and_counted_anew(tmp_path: Path) -> None:
    models = family(tmp_path, "a")
    found = merged(tmp_path, STACK)
    for index in range(6):
        wanted = layer(models["base"], index) if index < 3 else layer(models["a"], index - 2)
        assert all(map(same, layer(found, index), wanted)), index
    assert same(found["model.embed_tokens.weight"], models["base"]["model.embed_tokens.weight"])
    for name in ("model.norm.weight", "lm_head.weight"):
        assert same(found[name], models["a"][name])
    assert len(found) == 3 + 6 * 3
    config = json.loads((last_folder(tmp_path) / "config.json").read_text())
    assert config["num_hidden_layers"] == 6


def test_a_gradient_runs_over_each_slice(tmp_path: Path) -> None:
    models = family(tmp_path, "a", "b")
    found = merged(
        tmp_path,
        """
slices:
  - sources:
    - {model: base, layer_range: [0, 3]}
    - {model: a, layer_range: [0, 3], parameters: {weight: [0, 1]}}
  - sources:
    - {model: base, layer_range: [3, 4]}
    - {model: b, layer_range: [3, 4]}
    parameters: {lambda: 0.5}
merge_method: task_arithmetic
base_model: base
parameters: {weight: 1, lambda: 1}
""",
    )
    for index, weight in enumerate((0, 0.5, 1)):
        for got, base, other in zip(
            layer(found, index),
            layer(models["base"], index),
            layer(models["a"], index),
            strict=True,
        ):
            torch.testing.assert_close(got, base + weight * (other - base))
    for got, base, other in zip(
        layer(found, 3), layer(models["base"], 3), layer(models["b"], 3), strict=True
    ):
        torch.testing.assert_close(got, base + 0.5 * (other - base))
    # What stands outside of the layers is at the beginning of the gradient.
    head = "lm_head.weight"
    torch.testing.assert_close(
        found[head], models["base"][head] + 0.5 * (models["b"][head] - models["base"][head])
    )
    assert same(found["model.embed_tokens.weight"], models["base"]["model.embed_tokens.weight"])


def test_a_scale_silences_parts_of_a_slice(tmp_path: Path) -> None:
    """Block expansion: copied layers that begin as nothing."""
    models = family(tmp_path)
    found = merged(
        tmp_path,
        """
slices:
  - sources: [{model: base, layer_range: [0, 4]}]
  - sources:
    - model: base
      layer_range: [3, 4]
      parameters:
        scale:
          - {filter: up_proj, value: 0}
          - {value: 1}
merge_method: passthrough
""",
    )
    assert found["model.layers.4.mlp.up_proj.weight"].eq(0).all()
    assert same(layer(found, 4)[0], layer(models["base"], 3)[0])
    assert same(layer(found, 3)[1], layer(models["base"], 3)[1])


def test_all_layers_of_all_models_are_the_models(tmp_path: Path, capsys: Capsys) -> None:
    family(tmp_path, "a")
    rest = "merge_method: slerp\nbase_model: base\nparameters: {t: [0, 0.5, 1]}\ndtype: float32\n"
    sliced = "slices:\n- sources:\n"
    whole = "models:\n"
    for name in ("base", "a"):
        sliced += f"  - {{model: {name}, layer_range: [0, 4]}}\n"
        whole += f"- model: {name}\n"
    hashes = []
    for text in (sliced + rest, whole + rest):
        assert run(tmp_path, text, "--explain") == 0
        hashes.append(capsys.readouterr().out.splitlines()[0])
    assert hashes[0] == hashes[1]
    first, second = merged(tmp_path, sliced + rest), merged(tmp_path, whole + rest)
    assert all(same(first[name], second[name]) for name in first | second)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (("[1, 4]", "[1, 5]"), "`slices[1]` takes layers up to 5 of a, which has 4"),
        (("[1, 4]", "[4, 4]"), "`slices[1].sources[0].layer_range`"),
        (("[1, 4]", "[-1, 4]"), "`slices[1].sources[0].layer_range`"),
        (("[1, 4]", "4"), "`slices[1].sources[0].layer_range`"),
        (("layer_range: [1, 4]", "layers: [1, 4]"), "`slices[1].sources[0].layers`"),
        (("  - sources:\n    - model: a", "  - sorces:\n    - model: a"), "`slices[1]`"),
        (("merge_method", "armory: {target: a}\nmerge_method"), "`armory.target`"),
        (("merge_method", 'armory: {rules: ["take * from a"]}\nmerge_method'), "`take * from a`"),
        (("merge_method", 'armory: {rules: ["keep nothing"]}\nmerge_method'), "matches no tensor"),
        (("passthrough", "model_stock"), "needs `base_model`"),
        (
            ("layer_range: [1, 4]\n", "layer_range: [1, 4]\n" + SHORTER),
            "takes 3 layers of a and 2 of base",
        ),
    ],
    ids=str,
)
def test_what_does_not_go_together_is_named_before_anything_is_computed(
    tmp_path: Path, capsys: Capsys, change: tuple[str, str], named: str
) -> None:
    family(tmp_path, "a")
    text = STACK.replace(*change)
    if "weight: 1" in text:
        text = text.replace("passthrough", "linear")
    assert run(tmp_path, text, str(tmp_path / "out")) == 1
    assert named in said(capsys)
    assert not (tmp_path / "out").exists()


def test_models_of_other_depths_are_named_with_their_numbers(
    tmp_path: Path, capsys: Capsys
) -> None:
    family(tmp_path, "a")
    put(tmp_path, "deep", decoder(6))
    assert run(tmp_path, "base + 0.5*deep", str(tmp_path / "out")) == 1
    assert "deep has 6 layers and base has 4" in said(capsys)


def test_layers_of_another_width_are_refused(tmp_path: Path, capsys: Capsys) -> None:
    models = family(tmp_path, "a")
    wide = dict(models["a"])
    for index in range(4):
        wide[f"model.layers.{index}.mlp.up_proj.weight"] = torch.ones(32, 16)
    put(tmp_path, "a", wide)
    assert run(tmp_path, STACK, str(tmp_path / "out")) == 1
    assert "their layers cannot be stacked" in said(capsys)


def test_rules_speak_of_the_new_layers(tmp_path: Path) -> None:
    models = family(tmp_path, "a")
    found = merged(
        tmp_path,
        """
slices:
- sources: [{model: base, layer_range: [0, 2]}, {model: a, layer_range: [0, 2]}]
- sources: [{model: base, layer_range: [0, 2]}, {model: a, layer_range: [0, 2]}]
merge_method: task_arithmetic
base_model: base
parameters: {weight: 1}
armory:
  rules: ["skip model.layers.3.*"]
""",
    )
    assert all(map(same, layer(found, 3), layer(models["base"], 1)))
    assert all(map(same, layer(found, 1), layer(models["a"], 1)))


def test_the_recipe_is_one_thing_in_yaml_and_json(tmp_path: Path, capsys: Capsys) -> None:
    family(tmp_path, "a")
    first = merged(tmp_path, STACK)
    given = (last_folder(tmp_path) / "recipe.yaml").read_text()
    assert given == STACK
    assert run(tmp_path, STACK, "--explain") == 0
    name = capsys.readouterr().out.splitlines()[0]
    recipe = stack_recipe()
    assert f"recipe {recipe.hash}" == name
    assert recipe_from_json(recipe.to_json()) == recipe
    path = tmp_path / "recipe.json"
    path.write_text(recipe.to_json())
    second = merged(tmp_path, str(path))
    assert all(same(first[key], second[key]) for key in first | second)
    written = (last_folder(tmp_path) / "recipe.yaml").read_text()
    assert run(tmp_path, written, "--explain") == 0
    assert capsys.readouterr().out.splitlines()[0] == name


def stack_recipe() -> Any:
    from merging.engine.slices import Part, make_stack

    return make_stack(
        [
            Part("base", [("base", 1)], {}, {"base": (0, 3)}),
            Part("a", [("a", 1)], {}, {"a": (1, 4)}),
        ],
        method="passthrough",
    )


def test_lists_of_the_configuration_follow_the_layers() -> None:
    configs = {
        "base": {"num_hidden_layers": 4, "layer_types": list("fsfs"), "ids": [1, 2]},
        "a": {"num_hidden_layers": 4, "layer_types": list("ABCD")},
    }
    found = stacked_config(configs["base"], 4, stack_recipe(), configs.__getitem__)
    assert found == {"num_hidden_layers": 6, "layer_types": list("fsfBCD"), "ids": [1, 2]}
    nested = {"text_config": configs["base"], "vision": {"num_hidden_layers": 4}}
    found = stacked_config(nested, 4, stack_recipe(), lambda ref: {"text_config": configs[ref]})
    assert found["text_config"]["layer_types"] == list("fsfBCD")
    assert found["vision"] == {"num_hidden_layers": 4}


def test_a_model_with_two_stacks_is_named_with_both(tmp_path: Path, capsys: Capsys) -> None:
    models = family(tmp_path, "a")
    more = {f"vision.blocks.{n}.w": torch.ones(4, 4) for n in range(4)}
    put(tmp_path, "base", models["base"] | more)
    assert run(tmp_path, STACK, str(tmp_path / "out")) == 1
    assert "several stacks of layers (model.layers.*: 4, vision.blocks.*: 4)" in said(capsys)
    fewer = {f"vision.blocks.{n}.w": torch.ones(4, 4) for n in range(2)}
    put(tmp_path, "base", models["base"] | fewer)
    found = merged(tmp_path, STACK)
    assert found["vision.blocks.1.w"].eq(1).all()


def test_a_stack_of_one_dtype_keeps_it(tmp_path: Path) -> None:
    base = decoder(4, dtype=torch.bfloat16)
    put(tmp_path, "base", base, torch_dtype="bfloat16")
    put(tmp_path, "a", tuned(base, 1), torch_dtype="bfloat16")
    assert {value.dtype for value in merged(tmp_path, STACK).values()} == {torch.bfloat16}
    found = merged(tmp_path, STACK + "dtype: float16\n")
    assert {value.dtype for value in found.values()} == {torch.float16}
    config = json.loads((last_folder(tmp_path) / "config.json").read_text())
    assert config["torch_dtype"] == "float16"
