"""The same YAML file, given to mergekit and to our command: the same model.

mergekit computes with ``dtype: float32, out_dtype: bfloat16``, which is the nearest it has to our
arithmetic. At least 99.9 % of the numbers are equal and the rest one bfloat16 step apart; where a
method compares sums that mergekit takes in float32, ``docs/methods-spherical.md`` says more.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from merging.__main__ import main

WIDTH, INNER, VOCABULARY, LAYERS = 64, 160, 512, 4
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": WIDTH,
    "intermediate_size": INNER,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}


def shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of a small Llama."""
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCABULARY, WIDTH)}
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}"
        for part, rows in (("q", WIDTH), ("k", WIDTH // 2), ("v", WIDTH // 2), ("o", WIDTH)):
            found[f"{prefix}.self_attn.{part}_proj.weight"] = (rows, WIDTH)
        found[f"{prefix}.mlp.gate_proj.weight"] = (INNER, WIDTH)
        found[f"{prefix}.mlp.up_proj.weight"] = (INNER, WIDTH)
        found[f"{prefix}.mlp.down_proj.weight"] = (WIDTH, INNER)
        found[f"{prefix}.input_layernorm.weight"] = (WIDTH,)
        found[f"{prefix}.post_attention_layernorm.weight"] = (WIDTH,)
    return found | {"model.norm.weight": (WIDTH,), "lm_head.weight": (VOCABULARY, WIDTH)}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[torch.dtype, Path]:
    """Folders base, a, b and c: a foundation and three fine-tunes of it, in two dtypes."""
    root = tmp_path_factory.mktemp("models")
    return {dtype: stock(root / str(dtype), dtype) for dtype in (torch.bfloat16, torch.float32)}


def stock(root: Path, dtype: torch.dtype) -> Path:
    """A foundation and three fine-tunes of it in ``dtype``, as folders below ``root``."""
    generator = torch.Generator().manual_seed(0)
    base = {name: 0.1 * torch.randn(shape, generator=generator) for name, shape in shapes().items()}
    for name in ("base", "a", "b", "c"):
        folder = root / name
        folder.mkdir(parents=True)
        move = 0.0 if name == "base" else 0.004
        state = {
            key: (value + move * torch.randn(value.shape, generator=generator)).to(dtype)
            for key, value in base.items()
        }
        save_file(state, folder / "model.safetensors", {"format": "pt"})
        (folder / "config.json").write_text(json.dumps(CONFIG))
    return root


def peer(recipe: dict[str, Any], root: Path, out: Path) -> dict[str, torch.Tensor]:
    """What mergekit writes for ``recipe``, whose models are folders below ``root``."""
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    def located(data: Any) -> Any:
        if isinstance(data, dict):
            return {
                key: str(root / value)
                if key in ("model", "base_model") and isinstance(value, str)
                else located(value)
                for key, value in data.items()
            }
        return [located(item) for item in data] if isinstance(data, list) else data

    config = MergeConfiguration.model_validate(located(recipe))
    run_merge(config, str(out), options=MergeOptions(copy_tokenizer=False, quiet=True))
    (path,) = out.glob("*.safetensors")
    return load_file(path)


def ours(recipe: dict[str, Any], root: Path, out: Path) -> dict[str, torch.Tensor]:
    """What our command writes."""
    path = root / f"{out.name}.yaml"
    path.write_text(yaml.safe_dump(recipe))
    assert main([str(path), str(out), "--quiet"]) == 0
    return load_file(out / "model.safetensors")


def weighted(*models: tuple[str, float], **parameters: Any) -> list[dict[str, Any]]:
    return [
        {"model": name, "parameters": {"weight": weight, **parameters}} for name, weight in models
    ]


ALL = [{"model": name} for name in ("a", "b", "c")]
THREE = (("a", 0.5), ("b", 0.3), ("c", -0.2))
# Sums of near numbers with short decimals often fall exactly halfway between two bfloat16 numbers;
# then the last bit of float32 decides, and mergekit's linear fuses multiplication and addition.
UNEVEN = (("a", 0.4371), ("b", 0.3113), ("c", -0.1729))
TWO = (("a", 0.6), ("b", 0.9))
CURVE = [
    {"filter": "self_attn", "value": [0, 0.5, 0.3, 0.7, 1]},
    {"filter": "mlp", "value": [1, 0.5, 0.7, 0.3, 0]},
    {"value": 0.5},
]
FULL = [0, LAYERS]
RECIPES: dict[str, dict[str, Any]] = {
    "linear": {"merge_method": "linear", "models": weighted(*TWO), "base_model": None},
    "linear, not normalised": {
        "merge_method": "linear", "models": weighted(*UNEVEN), "base_model": None,
        "parameters": {"normalize": False},
    },
    "task_arithmetic": {"merge_method": "task_arithmetic", "models": weighted(*THREE)},
    "task_arithmetic, lambda and normalize": {
        "merge_method": "task_arithmetic", "models": weighted(*TWO),
        "parameters": {"lambda": 1.3, "normalize": True},
    },
    "task_arithmetic by layer": {
        "merge_method": "task_arithmetic",
        "models": [
            {"model": "a", "parameters": {"weight": [0.2, 0.8, 0.4]}},
            {"model": "b", "parameters": {"weight": [{"filter": "mlp", "value": 0.7},
                                                     {"value": [1, 0]}]}},
        ],
    },
    "ties": {"merge_method": "ties", "models": weighted(*THREE, density=0.3)},
    "ties, mixed": {
        "merge_method": "ties",
        "models": [*weighted(("a", 0.5), density=0.2), *weighted(("b", 0.7), density=[0.1, 0.9])],
        "parameters": {"normalize": False, "int8_mask": True, "lambda": 1.2},
    },
    "breadcrumbs": {
        "merge_method": "breadcrumbs", "models": weighted(*TWO, density=0.8, gamma=0.02),
    },
    "breadcrumbs_ties": {
        "merge_method": "breadcrumbs_ties", "models": weighted(*THREE, density=0.5, gamma=0.05),
        "parameters": {"rescale": True},
    },
    "sce": {"merge_method": "sce", "models": ALL, "parameters": {"select_topk": 0.4}},
    "ram": {"merge_method": "ram", "models": ALL, "parameters": {"epsilon": 0.002}},
    "ramplus_tl": {"merge_method": "ramplus_tl", "models": ALL, "parameters": {"epsilon": 0.002}},
    "slerp": {
        "merge_method": "slerp", "base_model": "base", "dtype": "float32",
        "slices": [{"sources": [{"model": "base", "layer_range": FULL},
                                {"model": "a", "layer_range": FULL}]}],
        "parameters": {"t": CURVE},
    },
    "nuslerp": {"merge_method": "nuslerp", "models": weighted(*TWO)},
    "nuslerp of models": {
        "merge_method": "nuslerp", "models": weighted(*TWO), "base_model": None,
    },
    "multislerp": {
        "merge_method": "multislerp", "models": weighted(("a", 0.5), ("b", 0.3), ("c", 0.2)),
    },
    "karcher": {"merge_method": "karcher", "models": ALL, "base_model": None},
    "model_stock": {"merge_method": "model_stock", "models": ALL},
    "model_stock by row": {
        "merge_method": "model_stock", "models": ALL, "parameters": {"filter_wise": True},
    },
    "nearswap": {
        "merge_method": "nearswap", "models": [{"model": "a"}], "parameters": {"t": 0.002},
    },
    "passthrough of layers": {
        "merge_method": "passthrough", "base_model": None,
        "slices": [{"sources": [{"model": "a", "layer_range": [0, 3]}]},
                   {"sources": [{"model": "b", "layer_range": [1, 4]}]}],
    },
    "slerp of layers": {
        "merge_method": "slerp", "base_model": "base",
        "slices": [
            {"sources": [{"model": "base", "layer_range": [0, 2]},
                         {"model": "a", "layer_range": [0, 2]}], "parameters": {"t": 0.3}},
            {"sources": [{"model": "base", "layer_range": [2, 4]},
                         {"model": "a", "layer_range": [1, 3]}], "parameters": {"t": [0, 1]}},
        ],
        "parameters": {"t": 0.6},
    },
}  # fmt: skip
# Share of numbers that may differ where mergekit's own float32 sums are the less exact side.
LOOSE = {"karcher": 0.01, "multislerp": 0.01, "nuslerp of models": 0.005, "slerp": 0.005,
         "slerp of layers": 0.005}  # fmt: skip
# Methods with a threshold get float32 models. In bfloat16 a delta has few different magnitudes, so
# many numbers lie exactly on the threshold, and mergekit keeps an arbitrary few of them.
FINE = {"ties", "ties, mixed", "breadcrumbs", "breadcrumbs_ties", "sce"}


@pytest.mark.parametrize("name", RECIPES)
def test_the_peers_numbers(name: str, models: dict[torch.dtype, Path], tmp_path: Path) -> None:
    root = models[torch.float32 if name in FINE else torch.bfloat16]
    recipe = {"base_model": "base", "dtype": "float32", "out_dtype": "bfloat16", **RECIPES[name]}
    recipe = {key: value for key, value in recipe.items() if value is not None}
    theirs = peer(recipe, root, tmp_path / "theirs")
    found = ours(recipe, root, tmp_path / name.replace(" ", "_").replace(",", ""))
    assert set(found) == set(theirs)
    differing = steps = count = 0
    for key, value in theirs.items():
        assert found[key].dtype == value.dtype
        assert found[key].shape == value.shape, key
        apart = (ordered(found[key]) - ordered(value)).abs()
        differing += int((apart > 0).sum())
        steps += int((apart > 1).sum())
        count += value.numel()
    allowed = LOOSE.get(name, 0.001)
    assert differing <= allowed * count, f"{differing / count:.3%} of the numbers differ"
    assert steps <= 1e-4 * count, f"{steps} numbers are more than one step apart"


def ordered(values: torch.Tensor) -> torch.Tensor:
    """bfloat16 numbers as integers in their order, so that neighbours differ by one."""
    bits = values.contiguous().view(torch.int16).int()
    return torch.where(bits < 0, -(bits & 0x7FFF), bits)
