"""Tiny decoder-like models in folders, for tests of recipes over local models."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from merging.__main__ import main
from tests.engine.models import State

WIDTH = 16


def decoder(layers: int = 4, seed: int = 0, dtype: torch.dtype = torch.float32) -> State:
    """An embedding, ``layers`` layers, a norm and a head."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    state = {"model.embed_tokens.weight": normal(20, WIDTH)}
    for index in range(layers):
        state[f"model.layers.{index}.self_attn.q_proj.weight"] = normal(WIDTH, WIDTH)
        state[f"model.layers.{index}.mlp.up_proj.weight"] = normal(24, WIDTH)
        state[f"model.layers.{index}.input_layernorm.weight"] = normal(WIDTH)
    return state | {"model.norm.weight": normal(WIDTH), "lm_head.weight": normal(20, WIDTH)}


def tuned(state: State, seed: int, by: float = 0.05) -> State:
    """``state`` moved a little."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (value.float() + by * torch.randn(value.shape, generator=generator)).to(value.dtype)
        for name, value in state.items()
    }


def put(root: Path, name: str, state: Mapping[str, torch.Tensor], **config: Any) -> State:
    """Write ``state`` as the model ``name`` below ``root``."""
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    save_file(dict(state), folder / "model.safetensors")
    layers = {int(key.split(".")[2]) for key in state if key.startswith("model.layers.")}
    document = {"model_type": "tiny", "num_hidden_layers": len(layers)} | config
    (folder / "config.json").write_text(json.dumps(document))
    return dict(state)


def family(root: Path, *names: str, layers: int = 4) -> dict[str, State]:
    """A foundation ``base`` and fine-tunes of it."""
    base = decoder(layers)
    states = {"base": put(root, "base", base)}
    for seed, name in enumerate(names, start=1):
        states[name] = put(root, name, tuned(base, seed))
    return states


def merged(root: Path, recipe: str, *options: str) -> State:
    """The result of a recipe (YAML text, or an expression) over the models below ``root``."""
    out = Path(root, "out", str(len(list(Path(root, "out").glob("*")))))
    assert run(root, recipe, str(out), *options) == 0
    return load_file(out / "model.safetensors")


def run(root: Path, recipe: str, *options: str) -> int:
    """The command's exit code."""
    if "\n" in recipe:
        path = root / "recipe.yml"
        path.write_text(recipe)
        recipe = str(path)
    return main([recipe, *options, "--models", str(root), "--quiet"])


def last_folder(root: Path) -> Path:
    """What `merged` wrote last."""
    return max(Path(root, "out").iterdir(), key=lambda path: int(path.name))
