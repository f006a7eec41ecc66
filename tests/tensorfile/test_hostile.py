"""Hostile and broken files, built here; each is refused with a sentence that names the file."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from vectors.tensorfile.checkpoint import Checkpoint
from vectors.tensorfile.errors import TensorFileError
from vectors.tensorfile.fingerprint import fingerprint
from vectors.tensorfile.header import read_header, write_header
from vectors.tensorfile.lora import check_additive
from vectors.tensorfile.source import MemorySource


def file_of(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(
    start: int, stop: int, shape: list[Any] | None = None, dtype: str = "F32"
) -> dict[str, Any]:
    size = [(stop - start) // 4] if shape is None else shape
    return {"dtype": dtype, "shape": size, "data_offsets": [start, stop]}


HOSTILE = {
    "empty": b"",
    "seven bytes": b"1234567",
    "pickle": b"\x80\x04" + b"x" * 100,
    "zip": b"PK\x03\x04" + b"x" * 100,
    "length 2^64-1": file_of({"a": entry(0, 4)}, b"1234", length=2**64 - 1),
    "length zero": struct.pack("<Q", 0) + b"x" * 20,
    "overlap": file_of({"a": entry(0, 8), "b": entry(4, 12)}, b"x" * 12),
    "hole": file_of({"a": entry(0, 4), "b": entry(8, 12)}, b"x" * 12),
    "first offset": file_of({"a": entry(4, 8)}, b"x" * 8),
    "trailing": file_of({"a": entry(0, 4)}, b"x" * 8),
    "cut off": file_of({"a": entry(0, 8)}, b"x" * 4),
    "duplicate tensor": file_of(
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
        b'"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}',
        b"x" * 8,
    ),
    "unknown field": file_of({"a": {**entry(0, 4), "more": 1}}, b"1234"),
    "float offset": file_of({"a": {**entry(0, 4), "data_offsets": [0, 4.0]}}, b"1234"),
    "boolean shape": file_of({"a": entry(0, 4, [True])}, b"1234"),
    "negative shape": file_of({"a": entry(0, 4, [-1])}, b"1234"),
    "shape and bytes": file_of({"a": entry(0, 4, [2])}, b"1234"),
    "overflow": file_of({"a": entry(0, 4, [2**62, 2**62])}, b"1234"),
    "dtype": file_of({"a": entry(0, 4, [1], "F31")}, b"1234"),
    "lower case dtype": file_of({"a": entry(0, 4, [1], "f32")}, b"1234"),
    "path name": file_of({"../../x": entry(0, 4)}, b"1234"),
    "nul name": file_of({"a\0b": entry(0, 4)}, b"1234"),
    "html name": file_of({"<b>": entry(0, 4)}, b"1234"),
    "rank": file_of({"a": entry(0, 4, [1] * 9)}, b"1234"),
    "metadata": file_of({"__metadata__": {"a": 1}, "a": entry(0, 4)}, b"1234"),
    "leading space": file_of(b" " + json.dumps({"a": entry(0, 4)}).encode(), b"1234"),
    "not utf-8": file_of(b'{"\xff":1}'),
    "deep": file_of(b'{"a":' + b"[" * 50_000 + b"]" * 50_000 + b"}"),
    "no tensors": file_of({}),
    "too many": file_of(b'{"a":' + b'{"b":' * 150_000 + b"}" * 150_001),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_by_name(name: str) -> None:
    with pytest.raises(TensorFileError) as caught:
        read_header(MemorySource(HOSTILE[name], "model.safetensors"))
    assert "model.safetensors" in str(caught.value)


def test_what_we_write_others_read_and_the_other_way_round(tmp_path: Path) -> None:
    state = {
        "w": torch.randn(3, 5).bfloat16(),
        "scalar": torch.tensor(2.0, dtype=torch.float64),
        "empty": torch.zeros(0, 4),
        "flags": torch.tensor([True, False]),
        "small": torch.randn(7).to(torch.float8_e4m3fn),
    }
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    checkpoint = Checkpoint.open_folder(tmp_path)
    rows = [(t.name, t.dtype, t.shape) for t in checkpoint.tensors.values()]
    assert {name: shape for name, _dtype, shape in rows} == {
        name: tuple(value.shape) for name, value in state.items()
    }
    header = write_header(rows, {"format": "pt"})
    assert len(header) % 4096 == 0
    raw = (tmp_path / "model.safetensors").read_bytes()
    data = raw[checkpoint.shards[0].header.data_start :]
    (tmp_path / "ours.safetensors").write_bytes(header + data)
    ours = load_file(tmp_path / "ours.safetensors")
    assert all(ours[name].float().equal(value.float()) for name, value in state.items())


def test_the_fingerprint_knows_tensors_not_files(tmp_path: Path) -> None:
    state = {"a": torch.randn(4, 4), "b": torch.randn(3)}
    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
    save_file(state, tmp_path / "one" / "model.safetensors")
    save_file({"b": state["b"]}, tmp_path / "two" / "m1.safetensors", {"x": "y"})
    save_file({"a": state["a"]}, tmp_path / "two" / "m2.safetensors")
    index = {"weight_map": {"a": "m2.safetensors", "b": "m1.safetensors"}}
    (tmp_path / "two" / "model.safetensors.index.json").write_text(json.dumps(index))
    changed = state["b"].clone()
    changed[1] += 1e-6
    save_file({**state, "b": changed}, tmp_path / "three" / "model.safetensors")
    one, two, three = (
        fingerprint(Checkpoint.open_folder(tmp_path / name)) for name in ("one", "two", "three")
    )
    assert one == two != three
    (tmp_path / "two" / "m2.safetensors").unlink()
    with pytest.raises(TensorFileError, match=r"m2.safetensors is missing"):
        Checkpoint.open_folder(tmp_path / "two")


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"peft_type": "IA3"}, "IA3"),
        ({"init_lora_weights": "pissa_niter_4"}, "pissa"),
    ],
)
def test_adapters_that_do_not_add_are_refused_by_name(config: dict[str, Any], named: str) -> None:
    with pytest.raises(TensorFileError, match=named):
        check_additive({"peft_type": "LORA", **config})
