"""LARV as a recipe: a scale for each layer of each vector."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from merging.__main__ import main
from merging.engine.errors import RecipeError
from merging.engine.larv import with_larv
from merging.engine.recipe import recipe_from_json
from merging.engine.run import equip
from merging.engine.spectral import larv_scales, layer_summary
from tests.engine.models import State, lora, put_on, save, tensors_of, vector

LAYERS = 6


def state(seed: int, scale: float = 1.0) -> State:
    generator = torch.Generator().manual_seed(seed)
    found = {
        f"model.layers.{layer}.{part}.weight": torch.randn(9, 7, generator=generator) * scale
        for layer in range(LAYERS)
        for part in ("up", "gate")
    }
    return found | {"model.norm.weight": torch.randn(7, generator=generator) * scale}


def test_each_layer_gets_its_scale_and_the_rest_keeps_its_weight(tmp_path: Path) -> None:
    base, moves = state(0), [state(1, 0.1), state(2, 0.1)]
    opened = save(base, tmp_path / "base")
    sources = []
    for name, move in zip("ab", moves, strict=True):
        fine = {key: base[key] + move[key] for key in base}
        sources.append(vector(fine, tmp_path / name))
    recipe = with_larv(put_on(opened, opened, [(sources[0], "0.5"), (sources[1], "-1")]))
    assert recipe_from_json(recipe.to_json()) == recipe
    found = tensors_of(equip(recipe, target=opened, foundation=opened, terms=sources))
    scales = []
    for move in moves:
        layers = [
            layer_summary(
                (base[key].numpy(), ((base[key] + move[key]) - base[key]).numpy())
                for key in base
                if key.startswith(f"model.layers.{layer}.")
            )
            for layer in range(LAYERS)
        ]
        scales.append(larv_scales(layers))
    assert {0.5, 1.0, 1.5} == {float(scale) for part in scales for scale in part}
    for key, theta in base.items():
        layer = int(key.split(".")[2]) if "layers" in key else None
        factors = [1.0 if layer is None else float(part[layer]) for part in scales]
        wanted = theta + 0.5 * factors[0] * moves[0][key] - factors[1] * moves[1][key]
        torch.testing.assert_close(found[key], wanted, atol=1e-6, rtol=1e-5)


def test_a_vector_of_one_layer_keeps_its_weight(tmp_path: Path) -> None:
    """There is nothing to compare the layer with."""
    factors = {
        "model.layers.2.up.lora_A.weight": torch.ones(1, 7),
        "model.layers.2.up.lora_B.weight": torch.ones(9, 1),
    }
    opened = save(state(0), tmp_path / "base")
    term = lora(factors, tmp_path / "l", r=1, lora_alpha=1)
    equipment = put_on(opened, opened, [(term, "0.7")])
    assert with_larv(equipment) == equipment.recipe


def test_a_schedule_of_ones_own_is_not_overwritten(tmp_path: Path) -> None:
    base = state(0)
    opened = save(base, tmp_path / "base")
    move = state(1, 0.1)
    source = vector({key: value + move[key] for key, value in base.items()}, tmp_path / "ann")
    equipment = put_on(opened, opened, [(source, "1")])
    scaled = with_larv(equipment)
    again = equip(scaled, target=opened, foundation=opened, terms=[source])
    with pytest.raises(RecipeError, match="ann has a weight of its own for each layer"):
        with_larv(again)


def test_the_command_writes_the_weights_it_found(tmp_path: Path) -> None:
    """The recipe beside the result gives the same file again, without another look."""
    base = state(0)
    for seed, name in enumerate(("base", "a", "b")):
        move = state(seed, 0.1 if seed else 0.0)
        save({key: base[key] + move[key] for key in base}, tmp_path / name)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "merge_method: task_arithmetic\nbase_model: base\nmodels:\n"
        "  - model: a\n    parameters: {weight: 0.5}\n"
        "  - model: b\n    parameters: {weight: 0.7}\n"
    )
    assert main([str(recipe), str(tmp_path / "one"), "--larv", "--quiet"]) == 0
    written = tmp_path / "one" / "recipe.yaml"
    assert "filter: model.layers." in written.read_text()
    again = [str(written), str(tmp_path / "two"), "--models", str(tmp_path), "--quiet"]
    assert main(again) == 0
    plain = [str(recipe), str(tmp_path / "three"), "--quiet"]
    assert main(plain) == 0
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two")]
    assert files[0] == files[1]
    assert files[0] != (tmp_path / "three" / "model.safetensors").read_bytes()
