"""``python -m benchmarks.devices``: the methods that decompose matrices, on processor and GPU.

The same recipes are computed on both, on a synthetic Llama of a few layers; what the merge adds to
each matrix is compared. Singular vectors are not unique to the last bit, so the results differ by
rounding: the table says by how much, as a share of the change's norm. Without a GPU, torch's
own CPU device takes its place, which tells whether that path is right, but not how fast a GPU is.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from merging.engine.local import equip_locally
from merging.engine.notation import read_recipe
from merging.engine.workspace import Workspace

from .checkpoints import make
from .sizes import Size

FULL = "base + {}(0.5*dense + 0.5*sparse{})"
LORA = "base + {}(0.5*lora + 0.5*dense{})"
RECIPES = {
    "tsv": FULL.format("tsv", ""),
    "tsv, one of them a LoRA": LORA.format("tsv", ""),
    "svc": FULL.format("svc", ""),
    "iso_c": FULL.format("iso_c", ""),
    "iso_cts": FULL.format("iso_cts", ""),
    "knots": FULL.format("knots", ""),
    "core_space, of LoRAs": "base + core_space(0.5*lora + 0.25*lora)",
    "wudi, {steps} steps": FULL.format("wudi", ", steps={steps}"),
}


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.devices", description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu:0")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=50, help="of WUDI")
    options = parser.parse_args()
    width = options.width
    size = Size("small", width, width * 11 // 4, options.layers, 16, 4, vocabulary=1000)
    with tempfile.TemporaryDirectory(prefix="armory-devices-") as name:
        make(size, Path(name) / "models")
        where = torch.cuda.get_device_name() if options.device.startswith("cuda") else "torch"
        print(f"{size.parameters / 1e6:.0f} million parameters; {options.device}: {where}\n")
        print("| method | numpy, one thread, s | device, s | × | differs by |")
        print("| ------ | -------------------: | --------: | -: | ---------: |", flush=True)
        for method, text in RECIPES.items():
            text, method = (part.replace("{steps}", str(options.steps)) for part in (text, method))
            changes(text, Path(name) / "models", options.device, layers=1)  # what is loaded once
            ours, host = changes(text, Path(name) / "models", "cpu")
            theirs, device = changes(text, Path(name) / "models", options.device)
            worst = max(apart(host[key], device[key]) for key in host)
            print(f"| {method} | {ours:.2f} | {theirs:.2f} | {ours / theirs:.1f} | {worst:.1e} |",
                  flush=True)  # fmt: skip


def changes(
    text: str, models: Path, device: str, layers: int | None = None
) -> tuple[float, dict[str, np.ndarray]]:
    """Seconds, and what the recipe adds to each matrix of the (first) layers."""
    document, _path = read_recipe(text)
    found = {}
    with equip_locally(document, [models], device=device) as local:
        merge, work = local.equipment.combination, Workspace()
        begin = time.perf_counter()
        for tensor in local.equipment.plan:
            inside = "_proj." in tensor.name
            if inside and (layers is None or f".layers.{layers}." in tensor.name):
                count = int(np.prod(tensor.shape))
                found[tensor.name] = np.array(merge.change(tensor, 0, count, work))
                work.forget_tensor()
        return time.perf_counter() - begin, found


def apart(one: np.ndarray, other: np.ndarray) -> float:
    """‖one − other‖ / ‖one‖."""
    return float(np.linalg.norm(one - other) / (np.linalg.norm(one) or 1))


if __name__ == "__main__":
    main()
