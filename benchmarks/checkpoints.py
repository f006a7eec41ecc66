"""Makes the synthetic checkpoints: ``python -m benchmarks.checkpoints SIZE FOLDER``.

A base and three fine-tunes of it, bf16, three shards each, and the low-rank one again as a PEFT
adapter. A fine-tune's difference has about 1 % of the base's norm, as real ones have, so after
rounding to bf16 most of it is a few units in the last place: equal magnitudes by the thousand,
which is what trimming by magnitude has to cope with. The numbers follow from seeds alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vectors.tensorfile.header import tensor_bytes, write_header
from vectors.tensorfile.numbers import narrow, widen

from .sizes import ADAPTER, MODELS, SIZES, Shape, Size

SHARDS = 3
RANK = 16
WEIGHT_STD = 0.02
RELATIVE_NORM = 0.01
SPARSE_SHARE = 0.1
BLOCK_ELEMENTS = 2**20
_KEY_FILE = "made-by"


def ready(folder: Path) -> bool:
    """Whether ``folder`` holds the checkpoints that this very source makes."""
    try:
        return (folder / _KEY_FILE).read_text() == _source_key()
    except FileNotFoundError:
        return False


def make(size: Size, folder: Path) -> None:
    """Write all checkpoints of ``size`` to ``folder``, which appears when they are complete."""
    needed = 2 * size.parameters * (len(MODELS) + 2)  # and two for results
    folder.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    free = shutil.disk_usage(folder.parent).free
    if needed > free:
        sys.exit(f"{needed / 1e9:.0f} GB are needed in {folder.parent}, {free / 1e9:.0f} are free.")
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    places = {name: _lay_out(size, partial / name) for name in MODELS}
    _write_adapter(size, partial)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = [
            pool.submit(_fill, size, index, lo, hi, {name: places[name][key] for name in MODELS})
            for index, (key, shape) in enumerate(size.tensors().items())
            for lo, hi in _row_blocks(shape)
        ]
        for job in jobs:
            job.result()
    (partial / _KEY_FILE).write_text(_source_key())
    partial.rename(folder)


@dataclass(frozen=True)
class _Place:
    """Where a tensor's data begins."""

    path: Path
    offset: int


def _source_key() -> str:
    sources = (Path(__file__), Path(__file__).with_name("sizes.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()


def _lay_out(size: Size, folder: Path) -> dict[str, _Place]:
    """Create the shards with their headers, the index and the configuration; data are zeros."""
    folder.mkdir(parents=True)
    shapes = size.tensors()
    shards: list[dict[str, Shape]] = [{} for _ in range(SHARDS)]
    total = 2 * size.parameters
    before = 0
    for name, shape in shapes.items():
        shards[min(SHARDS * before // total, SHARDS - 1)][name] = shape
        before += tensor_bytes("BF16", shape)
    places: dict[str, _Place] = {}
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        path = folder / f"model-{number:05}-of-{SHARDS:05}.safetensors"
        header = write_header(
            [(name, "BF16", shape) for name, shape in shard.items()], {"format": "pt"}
        )
        offset = len(header)
        for name, shape in shard.items():
            places[name] = _Place(path, offset)
            weight_map[name] = path.name
            offset += tensor_bytes("BF16", shape)
        path.write_bytes(header)
        os.truncate(path, offset)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))
    (folder / "config.json").write_text(json.dumps(size.config(), indent=1))
    return places


def _row_blocks(shape: Shape) -> list[tuple[int, int]]:
    """The rows of a matrix in runs of about BLOCK_ELEMENTS; a vector is one run."""
    if len(shape) == 1:
        return [(0, shape[0])]
    step = max(1, BLOCK_ELEMENTS // shape[1])
    return [(lo, min(lo + step, shape[0])) for lo in range(0, shape[0], step)]


def _fill(size: Size, index: int, lo: int, hi: int, places: dict[str, _Place]) -> None:
    """Compute rows ``[lo, hi)`` of tensor ``index`` in all models and write them."""
    name, shape = list(size.tensors().items())[index]
    random = np.random.default_rng([1, index, lo])
    columns = shape[1] if len(shape) == 2 else 1
    count = (hi - lo) * columns
    base = random.standard_normal(count, np.float32) * np.float32(WEIGHT_STD)
    scale = WEIGHT_STD * RELATIVE_NORM
    if len(shape) == 1:
        base = 1 + 5 * base  # the scales of a norm lie around one
        scale = RELATIVE_NORM
    base = _rounded(base)
    models = {"base": base, "lowrank": base, "sparse": base}
    models["dense"] = base + random.standard_normal(count, np.float32) * np.float32(scale)
    if _is_adapted(name):
        left, right = _factors(size, index)
        models["lowrank"] = base + (left[lo:hi] @ right).reshape(-1)
    if _layer(name) >= size.layers // 2:
        changed = random.random(count, np.float32) < SPARSE_SHARE
        sparse = base.copy()
        step = np.float32(scale / SPARSE_SHARE**0.5)
        sparse[changed] += random.standard_normal(int(changed.sum()), np.float32) * step
        models["sparse"] = sparse
    for model, numbers in models.items():
        place = places[model]
        with place.path.open("r+b") as handle:
            handle.seek(place.offset + 2 * lo * columns)
            handle.write(_stored(numbers))


def _factors(size: Size, index: int) -> tuple[np.ndarray, np.ndarray]:
    """B (rows, r) and A (r, columns) of an adapted matrix, float32, as the adapter holds them."""
    rows, columns = list(size.tensors().values())[index]
    random = np.random.default_rng([2, index])
    left = random.standard_normal((rows, RANK), np.float32) * (WEIGHT_STD * RELATIVE_NORM)
    right = random.standard_normal((RANK, columns), np.float32) / RANK**0.5
    return left, right


def _write_adapter(size: Size, folder: Path) -> None:
    """The low-rank fine-tune as peft saves it, on every projection."""
    names: list[tuple[str, str, Shape]] = []
    data = []
    modules = set()
    for index, (name, _shape) in enumerate(size.tensors().items()):
        if not _is_adapted(name):
            continue
        module = name.removesuffix(".weight")
        modules.add(module.rpartition(".")[2])
        for kind, factor in zip("BA", _factors(size, index), strict=True):
            names.append((f"base_model.model.{module}.lora_{kind}.weight", "F32", factor.shape))
            data.append(factor.tobytes())
    goal = folder / ADAPTER
    goal.mkdir()
    header = write_header(names, {"format": "pt"})
    (goal / "adapter_model.safetensors").write_bytes(b"".join([header, *data]))
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "base",
        "r": RANK,
        "lora_alpha": RANK,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "target_modules": sorted(modules),
    }
    (goal / "adapter_config.json").write_text(json.dumps(config, indent=1))


def _is_adapted(name: str) -> bool:
    return "_proj." in name


def _layer(name: str) -> int:
    """The layer a tensor belongs to; −1 outside of them."""
    found = re.search(r"\.layers\.(\d+)\.", name)
    return int(found[1]) if found else -1


def _stored(numbers: np.ndarray) -> np.ndarray:
    return narrow(numbers, "BF16", np.empty(2 * numbers.size, np.uint8))


def _rounded(numbers: np.ndarray) -> np.ndarray:
    return widen(_stored(numbers), "BF16", np.empty_like(numbers))


if __name__ == "__main__":
    goal = Path(sys.argv[2])
    if not ready(goal):
        print(f"making the checkpoints of {sys.argv[1]} B parameters in {goal}", file=sys.stderr)
        make(SIZES[sys.argv[1]], goal)
