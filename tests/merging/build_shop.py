"""A small shop for the tests of builds: a foundation in three files, two full vectors of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import torch
from django.contrib.auth.models import User
from safetensors.torch import save_file

from merging.models import Build, BuildFile, EquippedModel
from merging.repository import Opened, OutputFile
from vectors.importing import add_foundation, add_vector
from vectors.models import Foundation, Vector

FILES = 3
ROWS, COLUMNS = 384, 1024  # of one tensor; three of them in a file are more than two pieces


def state(seed: int = 0) -> dict[str, torch.Tensor]:
    """A model of nine tensors; seeds other than 0 give fine-tunes of the one with seed 0."""
    found = {}
    for layer in range(3 * FILES):
        generator = torch.Generator().manual_seed(100 + layer)
        tensor = 0.02 * torch.randn(ROWS, COLUMNS, generator=generator)
        if seed:
            noise = torch.Generator().manual_seed(1000 * seed + layer)
            tensor += 0.002 * torch.randn(ROWS, COLUMNS, generator=noise)
        found[f"layers.{layer}.weight"] = tensor.bfloat16()
    return found


def write_sharded(folder: Path, tensors: dict[str, torch.Tensor], count: int = FILES) -> Path:
    """A checkpoint in ``count`` files with their index."""
    folder.mkdir(parents=True)
    names, weight_map = list(tensors), {}
    for number in range(count):
        path = f"model-{number + 1:05d}-of-{count:05d}.safetensors"
        chosen = names[len(names) * number // count : len(names) * (number + 1) // count]
        save_file({name: tensors[name] for name in chosen}, folder / path, {"format": "pt"})
        weight_map.update(dict.fromkeys(chosen, path))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (folder / "config.json").write_text('{"model_type": "tiny"}')
    return folder


def stock(root: Path, owner: User) -> tuple[Foundation, dict[str, Vector]]:
    """lab/wide, and olive/law and olive/mood."""
    wide = add_foundation(
        write_sharded(root / "wide", state()), repo_id="lab/wide", card="---\nlicense: mit\n---\n"
    )
    vectors = {}
    for seed, name in enumerate(("law", "mood"), 1):
        folder = write_sharded(root / name, state(seed))
        (folder / "README.md").write_text("---\nlicense: mit\n---\n# X\n")
        version = add_vector(folder, repo_id=f"olive/{name}", foundation=wide, owner=owner)
        assert version.vector is not None
        vectors[name] = version.vector
    return wide, vectors


def weights(row: EquippedModel) -> Iterator[tuple[OutputFile, Opened]]:
    with closing(Opened(row)) as opened:
        for file in opened.computed:
            yield file, opened


def streamed(row: EquippedModel) -> dict[str, bytes]:
    """Every weight file as the stream makes it, whatever has been built."""
    return {file.path: b"".join(file.compute(0, file.size)) for file, _opened in weights(row)}


def handed_out(row: EquippedModel) -> dict[str, bytes]:
    """Every weight file as a download gets it."""
    return {file.path: b"".join(file.read()) for file, _opened in weights(row)}


def shas(files: dict[str, bytes]) -> dict[str, str]:
    return {path: hashlib.sha256(content).hexdigest() for path, content in files.items()}


def kept(build: Build) -> dict[str, str]:
    """Path and SHA-256 of what a build has stored."""
    return dict(BuildFile.objects.filter(build=build, stored=True).values_list("path", "blob_id"))
