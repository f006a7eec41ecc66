"""What is taken from another hub, before a byte of it is fetched."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub.hf_api import BlobLfsInfo, RepoSibling

from vectors.errors import Refusal
from vectors.fetching import _check, choose

FULL = """README.md config.json model.safetensors pytorch_model.bin tokenizer.model
    model.fp16.safetensors original/consolidated.safetensors onnx/model.onnx train.py
    1_Pooling/config.json .cache/x.json pytorch_model.bin.index.json vocab.txt LICENSE"""
SHARDED = """model-00001-of-00002.safetensors model-00002-of-00002.safetensors
    model.safetensors.index.json consolidated.safetensors 2_Dense/model.safetensors"""
LORA = "adapter_config.json adapter_model.safetensors model.safetensors optimizer.pt"


@pytest.mark.parametrize(
    ("paths", "form", "left"),
    [
        (
            FULL,
            "full",
            """pytorch_model.bin model.fp16.safetensors original/consolidated.safetensors
            onnx/model.onnx train.py .cache/x.json pytorch_model.bin.index.json""",
        ),
        (SHARDED, "full", "consolidated.safetensors"),
        (LORA, "lora", "model.safetensors optimizer.pt"),
        ("delta.safetensors ../up.json a/../b.json", "delta", "../up.json a/../b.json"),
    ],
)
def test_weights_are_taken_once_and_texts_with_them(paths: str, form: str, left: str) -> None:
    wanted = sorted(set(paths.split()) - set(left.split()))
    assert choose(paths.split(), "org/name") == (form, wanted)


@pytest.mark.parametrize(
    "paths", ["pytorch_model.bin config.json", "adapter_config.json", "onnx/model.safetensors", ""]
)
def test_a_repository_without_safetensors_is_refused(paths: str) -> None:
    with pytest.raises(Refusal, match="org/name has no weights that are taken here"):
        choose(paths.split(), "org/name")


@pytest.mark.parametrize("damage", [b"", b"{} ", b"[]"])
@pytest.mark.parametrize("large", [True, False])
def test_a_file_that_arrived_otherwise_is_thrown_away(
    tmp_path: Path, damage: bytes, large: bool
) -> None:
    sha256 = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"  # of {}
    lfs = BlobLfsInfo(size=2, sha256=sha256, pointer_size=1) if large else None
    told = RepoSibling("config.json", 2, "9e26dfeeb6e641a33dae4961196235bdb965b21b", lfs)
    file = tmp_path / "config.json"
    file.write_bytes(b"{}")
    _check(tmp_path, told)
    file.write_bytes(damage)
    with pytest.raises(Refusal, match=r"config.json did not arrive"):
        _check(tmp_path, told)
    assert not file.exists()
