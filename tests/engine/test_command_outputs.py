"""`--as delta` and `--as lora` on real folders: what is written, what is said, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from merging.__main__ import main
from merging.engine.outputs import percent
from tests.engine.models import State, foundation, same, tuned


def keep(state: State, folder: Path, stem: str = "model", **config: int) -> None:
    folder.mkdir()
    save_file(state, folder / f"{stem}.safetensors")
    if config:
        (folder / "adapter_config.json").write_text(json.dumps(config))
    else:
        (folder / "config.json").write_text("{}")


@pytest.fixture
def models(tmp_path: Path) -> Path:
    base = foundation(torch.bfloat16)
    keep(base, tmp_path / "base")
    keep(tuned(base, 1), tmp_path / "fine")
    for seed, name in enumerate(("one", "two")):
        torch.manual_seed(seed)
        factors = {
            "base_model.model.layers.1.lora_A.weight": torch.randn(3, 53),
            "base_model.model.layers.1.lora_B.weight": torch.randn(37, 3),
        }
        keep(factors, tmp_path / name, "adapter_model", r=3, lora_alpha=6)
    return tmp_path


def command(models: Path, *arguments: str) -> int:
    return main([*arguments, "--models", str(models), "--threads", "1"])


def test_a_difference_is_a_vector_again(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = "base + 0.5*fine - one"
    assert command(models, recipe, str(models / "whole"), "--quiet") == 0
    assert command(models, recipe, str(models / "part"), "--as", "delta") == 0
    assert "bit for bit" in capsys.readouterr().out
    assert {path.name for path in (models / "part").iterdir()} == {
        "delta.safetensors",
        "recipe.yaml",
    }
    assert command(models, "base + part", str(models / "again"), "--quiet") == 0
    expected = load_file(models / "whole" / "model.safetensors")
    found = load_file(models / "again" / "model.safetensors")
    assert all(same(found[name], expected[name]) for name in expected)


def test_two_loras_are_one(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = models / "joined"
    assert command(models, "base + one - 0.5*two", str(out), "--as", "lora") == 0
    assert "One LoRA of rank 6" in capsys.readouterr().out
    config = json.loads((out / "adapter_config.json").read_text())
    assert (config["r"], config["base_model_name_or_path"]) == (6, "base")
    assert command(models, "base + joined", str(models / "again"), "--quiet") == 0
    assert command(models, "base + one - 0.5*two", str(models / "whole"), "--quiet") == 0
    expected = load_file(models / "whole" / "model.safetensors")
    found = load_file(models / "again" / "model.safetensors")
    torch.testing.assert_close(
        found["layers.1.weight"], expected["layers.1.weight"], atol=1e-4, rtol=2**-7
    )


def test_a_fine_tune_is_cut_and_the_error_printed(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = models / "cut"
    assert command(models, "base + fine", str(out), "--as", "lora", "--rank", "4") == 0
    said = capsys.readouterr().out
    stated = json.loads((out / "errors.json").read_text())
    assert f"Relative error {percent(stated['relative_error'])}:" in said
    assert "Left out" in said
    assert (out / "adapter_model.safetensors").exists()
    again = models / "more"
    assert command(models, "base + fine", str(again), "--as", "lora", "--energy", "0.9") == 0
    finer = json.loads((again / "errors.json").read_text())
    assert all(tensor["relative_error"] ** 2 <= 0.1 for tensor in finer["tensors"].values())


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["--as", "lora"], 1, "Say a rank"),
        (["--as", "lora", "--rank", "0"], 1, "rank 0 holds nothing"),
        (["--as", "lora", "--energy", "2"], 1, "above 0 and up to 1"),
        (["--as", "delta", "--rank", "3"], 2, "belong to --as lora"),
        (["--energy", "0.5"], 2, "belong to --as lora"),
    ],
)
def test_refusals_leave_nothing_behind(
    models: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    sentence: str,
) -> None:
    before = sorted(models.iterdir())
    try:
        found = command(models, "base + fine", str(models / "out"), *arguments)
    except SystemExit as stop:
        found = int(str(stop.code))
    assert found == code
    assert sentence in capsys.readouterr().err
    assert sorted(models.iterdir()) == before


def test_slices_have_no_difference(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = models / "slices.yaml"
    recipe.write_text(
        "slices:\n"
        "  - sources: [{model: base, layer_range: [0, 2]}]\n"
        "  - sources: [{model: base, layer_range: [1, 3]}]\n"
        "merge_method: passthrough\n"
    )
    for kind in (["delta"], ["lora", "--rank", "2"]):
        assert command(models, str(recipe), str(models / "out"), "--as", *kind) == 1
        assert "put on no target" in capsys.readouterr().err
