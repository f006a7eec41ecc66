"""Recipes over local folders: what the three notations give, and what is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from merging.__main__ import main
from merging.engine import run as engine_run
from tests.engine.folders import decoder, family, last_folder, merged, put, run, tuned
from tests.engine.models import same

Capsys = pytest.CaptureFixture[str]
STRANGE_SLICE = """
merge_method: linear
parameters: {weight: 1}
slices:
- sources: [{model: base, layer_range: [0, 2]}, {model: stranger, layer_range: [0, 2]}]
"""
HEAD, EMBED = "lm_head.weight", "model.embed_tokens.weight"


def said(capsys: Capsys) -> str:
    return " ".join(capsys.readouterr().err.split())


def hash_of(root: Path, recipe: str, capsys: Capsys) -> str:
    capsys.readouterr()
    assert run(root, recipe, "--explain") == 0, said(capsys)
    return capsys.readouterr().out.splitlines()[0]


def vocabulary(root: Path, name: str, *tokens: str, **config: Any) -> None:
    """Tokenizer files of a model whose rows are ``tokens``."""
    table = {token: row for row, token in enumerate(tokens)}
    (root / name / "tokenizer.json").write_text(
        json.dumps({"model": {"type": "WordLevel", "vocab": table}, "note": name})
    )
    (root / name / "tokenizer_config.json").write_text(json.dumps(config))


# Notations


def test_a_line_a_file_and_json_are_one_recipe(tmp_path: Path, capsys: Capsys) -> None:
    models = family(tmp_path, "a", "b")
    text = """
merge_method: task_arithmetic
base_model: base
models:
- {model: a, parameters: {weight: 0.5}}
- {model: b, parameters: {weight: [0, 1]}}
parameters: {lambda: 0.8}
"""
    line = "base + 0.5*a + b[weight=[0, 1]], lambda=0.8"
    name = hash_of(tmp_path, text, capsys)
    assert hash_of(tmp_path, line, capsys) == name
    found = merged(tmp_path, line)
    for key, theta in models["base"].items():
        layer = int(key.split(".")[2]) / 3 if "layers" in key else 0
        wanted = theta + 0.8 * (
            0.5 * (models["a"][key] - theta) + layer * (models["b"][key] - theta)
        )
        torch.testing.assert_close(found[key], wanted)
    # What stands beside the result is the same recipe too.
    written = (last_folder(tmp_path) / "recipe.yaml").read_text()
    assert hash_of(tmp_path, written, capsys) == name


def test_another_target_than_the_foundation(tmp_path: Path) -> None:
    models = family(tmp_path, "chat", "zh")
    found = merged(tmp_path, "chat + zh, base=base, on=chat")
    again = merged(
        tmp_path,
        "merge_method: task_arithmetic\nbase_model: base\nmodels:\n"
        "- {model: chat, parameters: {weight: 1}}\n- {model: zh, parameters: {weight: 1}}\n"
        "armory: {target: chat}\n",
    )
    for key, theta in models["base"].items():
        torch.testing.assert_close(found[key], models["chat"][key] + models["zh"][key] - theta)
        assert same(found[key], again[key])


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("linear(a + 3*b)", lambda m, k: (m["a"][k] + 3 * m["b"][k]) / 4),
        ("base + passthrough(a, on=base)", None),
        ("base + slerp(a, t=1)", lambda m, k: m["a"][k]),
        ("slerp(base + a, t=0, on=base)", lambda m, k: m["base"][k]),
        ("base + ties(a, density=1)", lambda m, k: m["a"][k]),
        ("base", lambda m, k: m["base"][k]),
        ("base + a - a", lambda m, k: m["base"][k]),
    ],
)
def test_methods_in_a_line(tmp_path: Path, line: str, wanted: Any) -> None:
    models = family(tmp_path, "a", "b")
    found = merged(tmp_path, line)
    for key in models["base"] if wanted else ():
        torch.testing.assert_close(found[key], wanted(models, key), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("ties(a + b, density=0.5)", "MODEL + ties(…), or on=MODEL"),
        ("0.5*base + a", "base is what the vectors are put on"),
        ("base[weight=[0, 1]] + a", "base is what the vectors are put on"),
        ("base + nobody", "There is no folder nobody"),
        ('base + a, rule="take * from nobody"', "There is no folder nobody"),
        ('base + a, rule="skip nothing*"', "`skip nothing*` matches no tensor"),
        ("base + slerp(a)", "`t` is missing"),
    ],
)
def test_a_line_that_is_not_enough_says_what_is_missing(
    tmp_path: Path, capsys: Capsys, line: str, named: str
) -> None:
    family(tmp_path, "a", "b")
    assert run(tmp_path, line, str(tmp_path / "out")) == 1
    assert named in said(capsys)


def test_rules_in_all_notations(tmp_path: Path, capsys: Capsys) -> None:
    models = family(tmp_path, "a", "b")
    line = (
        'base + a, rule="skip *layers.0.* of a", rule="merge *layers.1.* x 0.5",'
        ' rule="take model.norm.weight from b"'
    )
    text = """
merge_method: task_arithmetic
base_model: base
models: [{model: a, parameters: {weight: 1}}]
armory:
  rules:
  - skip *layers.0.* of a
  - merge *layers.1.* x 0.5
  - take model.norm.weight from b
"""
    assert hash_of(tmp_path, line, capsys) == hash_of(tmp_path, text, capsys)
    found = merged(tmp_path, text)
    first, second = ("model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight")
    assert same(found[first], models["base"][first])
    torch.testing.assert_close(found[second], (models["base"][second] + models["a"][second]) / 2)
    assert same(found["model.norm.weight"], models["b"]["model.norm.weight"])


def test_a_seed_given_to_the_command_counts(tmp_path: Path) -> None:
    family(tmp_path, "a")
    line = "base + dare_linear(a, density=0.5, seed=1)"
    one, again = merged(tmp_path, line), merged(tmp_path, line)
    other, same_seed = merged(tmp_path, line, "--seed", "2"), merged(tmp_path, line, "--seed", "1")
    assert all(same(one[key], again[key]) and same(one[key], same_seed[key]) for key in one)
    assert not all(same(one[key], other[key]) for key in one)
    assert "seed: 1" in (last_folder(tmp_path) / "recipe.yaml").read_text()


def test_the_place_of_the_models_changes_nothing(tmp_path: Path) -> None:
    """Random numbers are addressed by names, not by where the folders happen to be."""
    outs = []
    for place in ("here", "there/below"):
        family(tmp_path / place, "a")
        outs.append(merged(tmp_path / place, "base + dare_linear(a, density=0.5, seed=1)"))
    assert all(same(outs[0][key], outs[1][key]) for key in outs[0])


def test_a_recipe_in_json(tmp_path: Path, capsys: Capsys) -> None:
    from merging.engine.recipe import make_recipe

    family(tmp_path, "a")
    recipe = make_recipe(foundation="base", target="base", terms=[("a", "0.5")])
    path = tmp_path / "recipe.json"
    path.write_text(recipe.to_json())
    assert hash_of(tmp_path, str(path), capsys) == f"recipe {recipe.hash}"
    path.write_text("{}")
    assert run(tmp_path, str(path), str(tmp_path / "out")) == 1
    assert "not a recipe in JSON" in said(capsys)


# Strictness


@pytest.mark.parametrize(
    "recipe",
    [
        "base + stranger",
        "linear(base + stranger)",
        "base + slerp(stranger, t=0.5)",
        "a + stranger, on=stranger, base=base",
        STRANGE_SLICE,
    ],
)
def test_a_model_of_another_foundation_is_refused(
    tmp_path: Path, capsys: Capsys, recipe: str
) -> None:
    """The peer merges them and writes rubbish with exit code 0."""
    family(tmp_path, "a")
    put(tmp_path, "stranger", decoder(seed=99))
    assert run(tmp_path, recipe, str(tmp_path / "out")) == 1
    found = said(capsys)
    assert "stranger does not come from base" in found
    assert "--unrelated" in found
    assert not (tmp_path / "out").exists()
    merged(tmp_path, recipe, "--unrelated")


@pytest.mark.parametrize("by", [0.0, 0.3, 1.0])
def test_a_fine_tune_that_went_far_is_still_one(tmp_path: Path, by: float) -> None:
    put(tmp_path, "base", base := decoder())
    put(tmp_path, "far", tuned(base, 1, by=by))
    merged(tmp_path, "base + 0.5*far")


def test_a_source_written_to_while_it_is_read_leaves_nothing(
    tmp_path: Path, capsys: Capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    family(tmp_path, "a")
    original = engine_run._write_files

    def touch_last(*arguments: Any) -> None:
        original(*arguments)
        os.utime(tmp_path / "a" / "model.safetensors", ns=(1, 1))

    monkeypatch.setattr(engine_run, "_write_files", touch_last)
    assert run(tmp_path, "base + 0.5*a", str(tmp_path / "out")) == 1
    assert "a/model.safetensors changed while it was read" in said(capsys)
    assert {path.name for path in tmp_path.iterdir()} == {"base", "a"}


def test_explaining_writes_nothing(tmp_path: Path, capsys: Capsys) -> None:
    models = family(tmp_path, "a")
    put(tmp_path, "a", models["a"] | {"score.weight": torch.ones(2, 16)})
    before = set(tmp_path.rglob("*"))
    line = 'base + a, rule="skip model.norm.weight"'
    assert run(tmp_path, line, str(tmp_path / "out"), "--explain") == 1
    output = capsys.readouterr()
    assert "merged: 14 tensors: lm_head.weight" in output.out
    assert "untouched: 1 tensors: model.norm.weight" in output.out
    assert "rule `skip model.norm.weight`: 1 tensors" in output.out
    assert "a: not in the target, left out: score.weight" in output.out
    assert "it would vanish" in output.err
    assert set(tmp_path.rglob("*")) == before


# Files beside the weights


def test_a_tokenizer_of_the_same_vocabulary_may_be_chosen(tmp_path: Path, capsys: Capsys) -> None:
    family(tmp_path, "a")
    vocabulary(tmp_path, "base", "x", "y")
    vocabulary(tmp_path, "a", "x", "y", chat_template="hello")
    text = (
        "merge_method: task_arithmetic\nbase_model: base\n"
        "models: [{model: a, parameters: {weight: 0.5}}]\n"
    )
    for key, giver in (("base", "base"), ("a", "a"), ("union", "base")):
        merged(tmp_path, f"{text}tokenizer_source: {key}\n")
        found = json.loads((last_folder(tmp_path) / "tokenizer.json").read_text())
        assert found["note"] == giver
    vocabulary(tmp_path, "a", "x", "z")
    for key in ("a", "union"):
        assert run(tmp_path, f"{text}tokenizer_source: {key}\n", str(tmp_path / "no")) == 1
        found = said(capsys)
        assert "the vocabularies of a and base differ (such as token `" in found
        assert "Supported are `base`" in found
    assert run(tmp_path, f"{text}tokenizer_source: nobody\n", str(tmp_path / "no")) == 1
    assert "`tokenizer_source: nobody` is no model of the recipe" in said(capsys)


def test_padding_is_checked(tmp_path: Path, capsys: Capsys) -> None:
    family(tmp_path, "a")
    text = (
        "merge_method: linear\nmodels: [{model: base}, {model: a}]\nparameters: {weight: 1}\n"
        "tokenizer: {source: base, pad_to_multiple_of: "
    )
    merged(tmp_path, text + "10}\n")
    assert run(tmp_path, text + "8}\n", str(tmp_path / "no")) == 1
    assert "`lm_head.weight` has 20 rows" in said(capsys)


def test_a_chat_template_is_written_where_readers_look(tmp_path: Path) -> None:
    family(tmp_path, "a")
    vocabulary(tmp_path, "base", "x", chat_template="old")
    text = (
        "merge_method: task_arithmetic\nbase_model: base\n"
        "models: [{model: a, parameters: {weight: 0.5}}]\n"
        'chat_template: "{{ messages }}"\n'
    )
    merged(tmp_path, text)
    out = last_folder(tmp_path)
    assert (out / "chat_template.jinja").read_text() == "{{ messages }}"
    about = json.loads((out / "tokenizer_config.json").read_text())
    assert about["chat_template"] == "{{ messages }}"


def test_the_configuration_of_another_model(tmp_path: Path) -> None:
    models = family(tmp_path, "a")
    put(tmp_path, "a", models["a"], rope=5)
    text = (
        "merge_method: task_arithmetic\nbase_model: base\n"
        "models: [{model: a, parameters: {weight: 0.5}}]\narmory: {configuration_from: a}\n"
    )
    merged(tmp_path, text)
    assert json.loads((last_folder(tmp_path) / "config.json").read_text())["rope"] == 5


def test_rows_by_token_read_the_tokenizers(tmp_path: Path) -> None:
    """The same words in another order: rows are matched by token, not by number."""
    base = decoder()
    put(tmp_path, "base", base)
    order = torch.arange(20).flip(0)
    put(tmp_path, "a", {k: v[order] if k in (EMBED, HEAD) else v for k, v in base.items()})
    tokens = [f"t{row}" for row in range(20)]
    vocabulary(tmp_path, "base", *tokens)
    vocabulary(tmp_path, "a", *reversed(tokens))
    found = merged(tmp_path, 'base + a, rule="map *embed*", rule="map lm_head*"')
    for name in (EMBED, HEAD):
        torch.testing.assert_close(found[name], base[name])
    changed = merged(tmp_path, "base + a")
    assert not torch.allclose(changed[EMBED], base[EMBED])


# The command


def test_one_method_is_documented(capsys: Capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--methods", "ties"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith("ties: ")
    assert "density (float, default 1" in text
    assert "weight (float, needed, of each model)" in text
    with pytest.raises(SystemExit):
        main(["--methods"])
    assert "slerp" in capsys.readouterr().out.split()
    with pytest.raises(SystemExit) as ended:
        main(["--methods", "tiez"])
    assert ended.value.code == 1
    assert "no method called tiez" in capsys.readouterr().err


def test_a_folder_is_needed_unless_it_explains(capsys: Capsys) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["base + a"])
    assert "OUT is missing" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_device_that_is_not_there_is_named(tmp_path: Path, capsys: Capsys) -> None:
    family(tmp_path, "a")
    assert run(tmp_path, "base + a", str(tmp_path / "out"), "--device", "cuda") == 1
    assert "No CUDA device" in said(capsys)


def test_names_with_spaces_stand_in_quotes(tmp_path: Path) -> None:
    models = family(tmp_path, "my model")
    found = merged(tmp_path, 'base + "my model"')
    assert all(same(found[key], value) for key, value in models["my model"].items())
    written = load_file(last_folder(tmp_path) / "model.safetensors")
    assert written.keys() == found.keys()
