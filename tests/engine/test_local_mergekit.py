"""Whole YAML files, run by mergekit and by us on the same folders: the same model comes out.

Slices, gradients, filters and the places of parameters are what is compared; methods have their own
tests.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

pytest.importorskip("mergekit")

from transformers import LlamaConfig, LlamaForCausalLM

from merging.__main__ import main

pytestmark = pytest.mark.slow

TAIL = "dtype: float32\nout_dtype: bfloat16\n"
RECIPES = {
    "stack": """
slices:
- sources: [{model: base, layer_range: [0, 4]}]
- sources: [{model: a, layer_range: [2, 6]}]
merge_method: passthrough
""",
    "block expansion": """
slices:
- sources: [{model: base, layer_range: [0, 3]}]
- sources:
  - model: base
    layer_range: [2, 3]
    parameters:
      scale: [{filter: o_proj, value: 0.0}, {filter: down_proj, value: 0.0}, {value: 1.0}]
- sources: [{model: base, layer_range: [3, 6]}]
merge_method: passthrough
""",
    "gradients and filters": """
slices:
- sources: [{model: a, layer_range: [0, 6]}, {model: b, layer_range: [0, 6]}]
merge_method: slerp
base_model: a
parameters:
  t:
  - {filter: self_attn, value: [0, 0.5, 0.3, 0.7, 1]}
  - {filter: mlp, value: [1, 0.5, 0.7, 0.3, 0]}
  - value: 0.5
""",
    "places of parameters": """
slices:
- sources:
  - {model: base, layer_range: [0, 3]}
  - {model: a, layer_range: [0, 3], parameters: {weight: [0, 1]}}
  - {model: b, layer_range: [1, 4]}
  parameters: {lambda: 0.5}
- sources: [{model: base, layer_range: [3, 6]}, {model: b, layer_range: [3, 6]}]
merge_method: task_arithmetic
base_model: base
parameters: {weight: 0.7}
""",
    "filters that end": """
models: [{model: a, parameters: {weight: [{filter: mlp, value: 1}]}}, {model: b}]
merge_method: linear
base_model: base
parameters: {weight: [0.2, 1]}
""",
    "without a base": """
models: [{model: a, parameters: {weight: 0.3}}, {model: b, parameters: {weight: [0.1, 0.9]}}]
merge_method: nuslerp
""",
}


@pytest.fixture(scope="module")
def llamas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``base``, and ``a`` and ``b`` that are near it."""
    root = tmp_path_factory.mktemp("llamas")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(root / "base")
    for name in ("a", "b"):
        for parameter in model.parameters():
            parameter.data += 0.005 * torch.randn_like(parameter)
        model.save_pretrained(root / name)
    return root


def by_mergekit(text: str, root: Path, out: Path) -> None:
    from mergekit.config import MergeConfiguration
    from mergekit.merge import MergeOptions, run_merge

    def placed(data: Any) -> Any:
        if isinstance(data, list):
            return [placed(item) for item in data]
        if isinstance(data, dict):
            return {
                key: str(root / value) if key in ("model", "base_model") else placed(value)
                for key, value in data.items()
            }
        return data

    config = MergeConfiguration.model_validate(placed(yaml.safe_load(text)))
    run_merge(config, str(out), MergeOptions(quiet=True, copy_tokenizer=False))


@pytest.mark.parametrize("name", RECIPES)
def test_the_same_file_gives_the_same_model(llamas: Path, tmp_path: Path, name: str) -> None:
    text = RECIPES[name].lstrip() + TAIL
    (tmp_path / "recipe.yml").write_text(text)
    run_both(str(tmp_path / "recipe.yml"), text, llamas, tmp_path)


@pytest.mark.parametrize(
    "line",
    [
        "base + 0.5*a[weight=[0, 1]] - 0.25*b, lambda=0.8, out_dtype=bfloat16",
        "base + slerp(a, t={mlp: [0, 1], *: 0.5})",
        "linear(a[weight={mlp: 0.5, *: 1}] + 2*b, normalize=false, out_dtype=float32)",
        "a + b, on=a, base=base",
        "nuslerp_models(a + 2*b)",
    ],
)
def test_mergekit_reads_what_we_write(llamas: Path, tmp_path: Path, line: str) -> None:
    """The recipe beside the result, where mergekit has words for all of it."""
    arguments = [line, str(tmp_path / "first"), "--models", str(llamas), "--quiet"]
    assert main(arguments) == 0
    written = (tmp_path / "first" / "recipe.yaml").read_text()
    assert not written.startswith("#")
    run_both(line, written, llamas, tmp_path)


def run_both(recipe: str, text: str, llamas: Path, tmp_path: Path) -> None:
    """``text`` by mergekit, ``recipe`` by us; numbers and number of layers must be the same."""
    by_mergekit(text, llamas, tmp_path / "theirs")
    assert main([recipe, str(tmp_path / "ours"), "--models", str(llamas), "--quiet"]) == 0
    theirs = load_file(tmp_path / "theirs" / "model.safetensors")
    ours = load_file(tmp_path / "ours" / "model.safetensors")
    assert theirs.keys() == ours.keys()
    different = count = 0
    for key, wanted in theirs.items():
        assert ours[key].dtype == wanted.dtype
        torch.testing.assert_close(ours[key], wanted, rtol=0.01, atol=1e-4)
        different += int(ours[key].ne(wanted).sum())
        count += wanted.numel()
    # A weighted mean divides by a sum that mergekit has in float32: some numbers round otherwise.
    assert different <= count * 0.005
    layers = [
        json.loads((tmp_path / which / "config.json").read_text())["num_hidden_layers"]
        for which in ("ours", "theirs")
    ]
    assert layers[0] == layers[1]
