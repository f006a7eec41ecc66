"""Tiny checkpoints for the engine's tests."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

from merging.engine.align import TermSource
from merging.engine.recipe import make_recipe
from merging.engine.run import Equipment, equip, stream
from vectors.tensorfile.checkpoint import Checkpoint
from vectors.tensorfile.lora import read_adapter

State = dict[str, torch.Tensor]


def foundation(dtype: torch.dtype, seed: int = 0) -> State:
    """A few matrices, a vector, a scalar and an integer buffer."""
    generator = torch.Generator().manual_seed(seed)
    state = {
        f"layers.{index}.weight": torch.randn(37, 53, generator=generator).to(dtype)
        for index in range(3)
    }
    state["embed.weight"] = torch.randn(40, 16, generator=generator).to(dtype)
    state["norm.bias"] = torch.randn(53, generator=generator).to(dtype)
    state["scale"] = torch.tensor(0.5).to(dtype)
    state["positions"] = torch.arange(9)
    return state


def tuned(state: State, seed: int) -> State:
    """``state`` moved a little at random; integers stay."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (value.float() + 0.02 * torch.randn(value.shape, generator=generator)).to(value.dtype)
        if value.is_floating_point()
        else value
        for name, value in state.items()
    }


def save(state: Mapping[str, torch.Tensor], folder: Path, stem: str = "model") -> Checkpoint:
    """Write ``state`` as a checkpoint folder and open it."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(dict(state), folder / f"{stem}.safetensors")
    return Checkpoint.open_folder(folder, stem)


def put_on(
    target: Checkpoint,
    base: Checkpoint,
    terms: list[tuple[TermSource, str]],
    target_ref: str = "base",
    **kwargs: object,
) -> Equipment:
    """Equip ``terms`` (source, coefficient) on ``target``."""
    recipe = make_recipe(
        foundation="base",
        target=target_ref,
        terms=[(source.ref, coefficient) for source, coefficient in terms],
        **kwargs,  # type: ignore[arg-type]
    )
    by_ref = {source.ref: source for source, _coefficient in terms}
    return equip(
        recipe, target=target, foundation=base, terms=[by_ref[t.ref] for t in recipe.terms]
    )


def tensors_of(equipment: Equipment) -> State:
    """The result, as the safetensors package reads it."""
    from safetensors.torch import load

    (file,) = equipment.model.files.values()
    return load(b"".join(stream(file)))


def same(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Equal dtype, shape and bits."""
    return (
        first.dtype == second.dtype
        and first.shape == second.shape
        and first.contiguous()
        .view(-1)
        .view(torch.uint8)
        .equal(second.contiguous().view(-1).view(torch.uint8))
    )


def vector(state: Mapping[str, torch.Tensor], folder: Path, form: str = "full") -> TermSource:
    """A term named after its folder: a ``full`` or ``delta`` checkpoint of ``state``."""
    stem = "model" if form == "full" else form
    return TermSource(folder.name, folder.name, form, save(state, folder, stem))


def lora(state: Mapping[str, torch.Tensor], folder: Path, **config: object) -> TermSource:
    """A LoRA term named after its folder; ``state`` holds A and B by their bare names."""
    named = {f"base_model.model.{name}": value for name, value in state.items()}
    adapter = read_adapter(config, save(named, folder, "adapter_model"))
    return TermSource(folder.name, folder.name, "lora", adapter)


def shards(
    parts: list[State], folder: Path, metadata: Mapping[str, str] | None = None
) -> Checkpoint:
    """Write each of ``parts`` as a shard, with the index, and open the checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    weight_map = {}
    for number, part in enumerate(parts, start=1):
        path = f"model-{number:05d}-of-{len(parts):05d}.safetensors"
        save_file(part, folder / path, dict(metadata or {}))
        weight_map |= dict.fromkeys(part, path)
    index = json.dumps({"weight_map": weight_map})
    (folder / "model.safetensors.index.json").write_text(index)
    return Checkpoint.open_folder(folder)
