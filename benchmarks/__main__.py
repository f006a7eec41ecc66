"""``make bench``: the engine beside ``cp``, interleaved in one run; medians, and their ratio.

Makes a synthetic Llama-shaped bf16 foundation with fine-tunes and a LoRA in a temporary folder and
merges them with ``python -m merging``. ``cp`` of the result is what writing it costs at least.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from vectors.tensorfile.header import tensor_bytes, write_header

Rows = list[tuple[str, str, tuple[int, ...]]]


def llama_rows(width: int, layers: int) -> Rows:
    """Names, dtypes and shapes of a small Llama."""
    rows: Rows = [("model.embed_tokens.weight", "BF16", (32_000, width))]
    for layer in range(layers):
        prefix = f"model.layers.{layer}"
        rows += [(f"{prefix}.self_attn.{p}_proj.weight", "BF16", (width, width)) for p in "qkvo"]
        rows += [
            (f"{prefix}.mlp.up_proj.weight", "BF16", (4 * width, width)),
            (f"{prefix}.mlp.down_proj.weight", "BF16", (width, 4 * width)),
            (f"{prefix}.input_layernorm.weight", "BF16", (width,)),
        ]
    return rows


def write_file(path: Path, rows: Rows, seed: int) -> None:
    """Random numbers of a plausible size under ``rows``, from one repeated block."""
    numbers = np.random.default_rng(seed).normal(0, 0.02, 2**20 + 4099).astype(np.float32)
    block = (numbers.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    path.parent.mkdir(parents=True)
    with path.open("wb") as handle:
        handle.write(write_header(rows, {"format": "pt"}))
        left = sum(tensor_bytes(dtype, shape) for _name, dtype, shape in rows)
        while left > 0:
            handle.write(block[: min(left, len(block))])
            left -= len(block)


def stock(folder: Path, width: int, layers: int) -> None:
    """A foundation, three fine-tunes of it, and a rank-8 LoRA."""
    rows = llama_rows(width, layers)
    for seed, name in enumerate(("base", "a", "b", "c")):
        write_file(folder / name / "model.safetensors", rows, seed)
    (folder / "base" / "config.json").write_text("{}")
    factors: Rows = []
    for layer in range(layers):
        module = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        factors.append((f"{module}.lora_A.weight", "BF16", (8, width)))
        factors.append((f"{module}.lora_B.weight", "BF16", (width, 8)))
    write_file(folder / "lora" / "adapter_model.safetensors", factors, 9)
    (folder / "lora" / "adapter_config.json").write_text(json.dumps({"r": 8, "lora_alpha": 16}))


def merge(folder: Path, models: list[str]) -> Callable[[], None]:
    """A run of the command over ``models`` of ``folder``."""
    entries = "".join(f"  - model: {name}\n    parameters: {{weight: 0.5}}\n" for name in models)
    recipe = folder / f"{len(models)}{models[0].replace('+', '-')}.yaml"
    recipe.write_text(f"merge_method: task_arithmetic\nbase_model: base\nmodels:\n{entries}")

    def run() -> None:
        out = folder / "out"
        shutil.rmtree(out, ignore_errors=True)
        command = [sys.executable, "-m", "merging", str(recipe), str(out), "--quiet"]
        subprocess.run(command, check=True)

    return run


def copy(folder: Path) -> Callable[[], None]:
    """``cp`` of a file of the result's size."""
    source, goal = folder / "base" / "model.safetensors", folder / "copy"

    def run() -> None:
        goal.unlink(missing_ok=True)
        subprocess.run(["cp", str(source), str(goal)], check=True)

    return run


def main() -> None:
    """Time each operation ``--runs`` times in turn and print medians and ratios."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=18)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        stock(folder, options.width, options.layers)
        size = (folder / "base" / "model.safetensors").stat().st_size
        operations = {
            "cp of the result": copy(folder),
            "task_arithmetic, one LoRA": merge(folder, ["base+lora"]),
            "task_arithmetic, three full": merge(folder, ["a", "b", "c"]),
        }
        times: dict[str, list[float]] = {label: [] for label in operations}
        for run in range(options.runs + 1):
            for label, operation in operations.items():
                started = time.perf_counter()
                operation()
                if run:  # the first round warms the caches
                    times[label].append(time.perf_counter() - started)
    base = statistics.median(times["cp of the result"])
    print(f"result {size / 1e9:.2f} GB, medians of {options.runs}, process start included")
    for label, measured in times.items():
        median = statistics.median(measured)
        print(f"{label:32} {median:7.2f} s   {median / base:6.1f} x cp")
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"largest peak memory of a merge   {peak:7.0f} MB")


if __name__ == "__main__":
    main()
