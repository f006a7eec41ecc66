"""Checkpoints of one file and of shards, and what an index may not say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from vectors.tensorfile.checkpoint import Checkpoint, read_json
from vectors.tensorfile.completeness import missing_file
from vectors.tensorfile.errors import TensorFileError
from vectors.tensorfile.source import MemorySource

A, B = torch.arange(6.0).reshape(2, 3), torch.arange(4).half()
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
INDEX = "model.safetensors.index.json"


def files_of(contents: dict[str, Any]) -> dict[str, MemorySource]:
    """Sources by path: tensors become a safetensors file, other things JSON, bytes stay."""
    files = {}
    for path, content in contents.items():
        if isinstance(content, bytes):
            raw = content
        elif path.endswith(".safetensors"):
            raw = save(content)
        else:
            raw = json.dumps(content).encode()
        files[path] = MemorySource(raw, path)
    return files


def index(**weight_map: str) -> dict[str, Any]:
    return {"metadata": {"total_size": 32}, "weight_map": weight_map}


def sharded(**changes: Any) -> dict[str, Any]:
    """Two shards and their index; ``changes`` by word: first, second, index (None: left out)."""
    contents = {
        FIRST: changes.get("first", {"a": A}),
        SECOND: changes.get("second", {"b": B}),
        INDEX: changes.get("index", index(a=FIRST, b=SECOND)),
    }
    return {path: content for path, content in contents.items() if content is not None}


def refusal(contents: dict[str, Any], stem: str = "model") -> str:
    with pytest.raises(TensorFileError) as caught:
        Checkpoint.open(files_of(contents), stem)
    return str(caught.value)


def test_one_file_and_shards_are_the_same_tensors() -> None:
    single = Checkpoint.open(files_of({"model.safetensors": {"a": A, "b": B}}))
    shards = Checkpoint.open(files_of(sharded()))
    for checkpoint in (single, shards):
        assert {t.name: (t.dtype, t.shape) for t in checkpoint.tensors.values()} == {
            "a": ("F32", (2, 3)),
            "b": ("F16", (4,)),
        }
        assert checkpoint.nbytes == 32
        assert checkpoint.parameters == 10
        piece = bytearray(8)
        checkpoint.tensors["a"].read_into(16, memoryview(piece))
        assert torch.frombuffer(piece, dtype=torch.float32).tolist() == [4.0, 5.0]
    assert [shard.path for shard in shards.shards] == [FIRST, SECOND]


@pytest.mark.parametrize("stem", ["model", "delta", "adapter_model"])
def test_each_form_has_its_stem(stem: str) -> None:
    other = "delta" if stem == "model" else "model"
    files = files_of({f"{stem}.safetensors": {"a": A}, f"{other}.safetensors": {"b": B}})
    assert list(Checkpoint.open(files, stem).tensors) == ["a"]


def test_a_single_file_of_another_name_is_taken() -> None:
    files = files_of({"pytorch_lora_weights.safetensors": {"a": A}, "config.json": {}})
    assert list(Checkpoint.open(files).tensors) == ["a"]


def test_an_empty_folder_is_told_what_to_add() -> None:
    assert "no model.safetensors and no model.safetensors.index.json" in refusal({})
    assert "no model.safetensors" in refusal({"x.safetensors": {"a": A}, "y.safetensors": {"b": B}})


def test_a_missing_shard_is_named() -> None:
    assert refusal(sharded(second=None)).startswith(f"The shard {SECOND} is missing: {INDEX}")


def test_a_missing_index_is_named() -> None:
    assert f"without {INDEX}" in refusal(sharded(index=None))
    assert f"without {INDEX}" in refusal({FIRST: {"a": A}})


def test_a_tensor_in_two_files_is_named_with_both() -> None:
    for place in (FIRST, SECOND):
        both = {"first": {"a": A, "c": B}, "second": {"a": A, "b": B}}
        found = refusal(sharded(**both, index=index(a=place, b=SECOND, c=FIRST)))
        assert found == f"`a` is in two files: {FIRST} and {SECOND}."


def test_one_file_beside_an_index_is_refused() -> None:
    """transformers would load the one file, other readers the shards."""
    found = refusal({**sharded(), "model.safetensors": {"a": A}})
    assert found.startswith(f"There are both model.safetensors and {INDEX}")


def test_a_weight_file_that_the_index_leaves_out_is_no_part_of_the_checkpoint() -> None:
    files = files_of({**sharded(), "consolidated.safetensors": {"a": A, "x": B}})
    assert set(Checkpoint.open(files).tensors) == {"a", "b"}


def test_an_index_that_points_to_another_shard_is_refused() -> None:
    found = refusal(sharded(index=index(a=SECOND, b=FIRST)))
    assert found == f"{INDEX} puts `a` into {SECOND}, but it is not there."


def test_an_index_that_names_a_tensor_nobody_has_is_refused() -> None:
    found = refusal(sharded(index=index(a=FIRST, b=SECOND, c=SECOND)))
    assert found == f"{INDEX} puts `c` into {SECOND}, but it is not there."


def test_a_tensor_the_index_does_not_name_is_refused() -> None:
    found = refusal(sharded(second={"b": B, "hidden": A}))
    assert found == f"{SECOND} holds `hidden`, which {INDEX} does not name."


@pytest.mark.parametrize(
    "path",
    [
        "../other/model.safetensors",
        "/etc/passwd",
        "sub/model.safetensors",
        "./model.safetensors",
        "model.safetensors/",
        ["model.safetensors"],
        None,
        3,
    ],
)
def test_an_index_that_points_outside_the_folder_is_refused(path: Any) -> None:
    found = refusal(sharded(index=index(a=path, b=SECOND)))
    assert found == f"{INDEX} gives `a` a file outside the folder."


@pytest.mark.parametrize("path", ["", "..", "config.json"])
def test_an_index_that_points_to_no_shard_is_refused(path: str) -> None:
    assert path in refusal({**sharded(index=index(a=path, b=SECOND)), "config.json": {}})


@pytest.mark.parametrize("document", [{}, {"weight_map": {}}, {"weight_map": ["a"]}])
def test_an_index_without_a_map_is_refused(document: dict[str, Any]) -> None:
    assert refusal(sharded(index=document)) == f"{INDEX} has no weight_map."


@pytest.mark.parametrize("raw", [b"", b"[]", b"{", b"\xff", b"[" * 100_000, b"1" * 5000])
def test_an_index_that_is_no_object_is_refused(raw: bytes) -> None:
    assert refusal(sharded(index=raw)) == f"{INDEX} is not a JSON object."


def test_what_an_index_says_can_be_said_again() -> None:
    half = "\ud800" * 1000
    for weight_map in ({half: "../a"}, {"a": half}, {half: FIRST, "b": SECOND}):
        said = refusal(sharded(index={"weight_map": weight_map}))
        assert said.encode()
        assert len(said) < 1000
    files = {INDEX: files_of({INDEX: index(a=half, b=SECOND)})[INDEX]}
    assert missing_file(files) == SECOND


def test_json_is_bounded() -> None:
    with pytest.raises(TensorFileError, match=r"config.json has 12 bytes; at most 10"):
        read_json(MemorySource(b'{"a":      1}'[:12], "config.json"), limit=10)


def test_a_broken_shard_is_named() -> None:
    assert refusal(sharded(second=save({"b": B})[:-1])).startswith(f"{SECOND} is cut off")


def test_a_folder_on_disk_is_named_in_errors(tmp_path: Path) -> None:
    """Every folder has a model.safetensors: the sentence says which one is broken."""
    (tmp_path / "bo").mkdir()
    (tmp_path / "bo" / "README.md").write_text("not a weight file")
    (tmp_path / "bo" / "model.safetensors").write_bytes(save({"a": A})[:-1])
    with pytest.raises(TensorFileError, match=r"^bo/model\.safetensors is cut off"):
        Checkpoint.open_folder(tmp_path / "bo")
    (tmp_path / "bo" / "model.safetensors").write_bytes(save({"a": A}))
    checkpoint = Checkpoint.open_folder(tmp_path / "bo")
    assert list(checkpoint.tensors) == ["a"]
    checkpoint.close()
