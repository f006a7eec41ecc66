"""Model files for a running site: a tiny BERT with its fine-tunes, and large ones that cost little.

The tiny models are written by transformers and peft themselves, so that what a maker uploads and
what a newcomer loads are the real thing. The large ones repeat one block of numbers.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] a model learn ##s ##ed to read law film and forget".split()
CARD = """---
base_model: {base}
license: mit
language: en
pipeline_tag: feature-extraction
tags: [{tag}]
---
# {title}

What a model learns from it, in one paragraph.
"""
FOUNDATION = "lab/tiny-bert"


def write_card(folder: Path, title: str, base: str = FOUNDATION, tag: str = "tiny") -> Path:
    (folder / "README.md").write_text(CARD.format(base=base, title=title, tag=tag))
    return folder


def write_bert(folder: Path, *, hidden: int = 32, seed: int = 0) -> Path:
    """A BERT of two layers with a tokenizer, as ``save_pretrained`` leaves it."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=hidden,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=2 * hidden,
        max_position_embeddings=32,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        BertModel(config).save_pretrained(folder)
    BertTokenizerFast(vocab_file=str(folder / "vocab.txt")).save_pretrained(folder)
    return write_card(folder, "Tiny BERT")


def write_lora(folder: Path, base: Path, title: str, seed: int = 1) -> Path:
    """A LoRA on the attention of ``base``, as peft leaves it, with a delta that is not zero."""
    from peft import LoraConfig, get_peft_model
    from transformers import BertModel

    config = LoraConfig(
        r=2, lora_alpha=4, target_modules=["query", "value"], init_lora_weights=False
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = get_peft_model(BertModel.from_pretrained(base), config)
        model.save_pretrained(folder)
    return write_card(folder, title)


def tuned(base: Path, seed: int) -> dict[str, torch.Tensor]:
    """The weights in ``base``, each moved a little."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: value + 0.01 * torch.randn(value.shape, generator=generator)
        for name, value in load_file(base / "model.safetensors").items()
    }


def write_full(
    folder: Path,
    base: Path,
    title: str,
    seed: int = 2,
    change: Callable[[dict[str, torch.Tensor]], object] = lambda _weights: None,
) -> Path:
    """A fine-tuned checkpoint of ``base``; ``change`` may spoil its weights before they go down."""
    folder.mkdir(parents=True)
    weights = tuned(base, seed)
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_bytes((base / "config.json").read_bytes())
    return write_card(folder, title)


def write_delta(folder: Path, base: Path, title: str, seed: int = 3) -> Path:
    """The difference of a fine-tune and ``base``."""
    folder.mkdir(parents=True)
    before, after = load_file(base / "model.safetensors"), tuned(base, seed)
    delta = {name: after[name] - before[name] for name in before}
    save_file(delta, folder / "delta.safetensors", {"format": "pt"})
    return write_card(folder, title)


# --- large and cheap -------------------------------------------------------------------------


@dataclass(frozen=True)
class Repeated:
    """A bfloat16 safetensors file whose numbers are one block again and again; never in memory."""

    header: bytes
    size: int
    block: bytes

    def read(self, start: int, stop: int) -> bytes:
        """Bytes ``[start, stop)`` of the file."""
        found = bytearray()
        while start < stop:
            if start < len(self.header):
                piece = self.header[start:stop]
            else:
                at = (start - len(self.header)) % len(self.block)
                piece = self.block[at : at + stop - start]
            found += piece
            start += len(piece)
        return bytes(found)

    def write(self, path: Path) -> None:
        with path.open("wb") as handle:
            for start in range(0, self.size, 2**24):
                handle.write(self.read(start, min(start + 2**24, self.size)))


def repeated(shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> Repeated:
    """A checkpoint of these tensors. Seeds other than 0 give fine-tunes of the one with seed 0."""
    generator = torch.Generator().manual_seed(0)
    block = 0.02 * torch.randn(2**20 + 2**8, generator=generator)
    if seed:
        noise = torch.Generator().manual_seed(seed)
        block += 0.002 * torch.randn(block.shape, generator=noise)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in shapes.items():
        end = offset + 2 * prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    head = struct.pack("<Q", len(text)) + text
    return Repeated(head, len(head) + offset, block.bfloat16().view(torch.uint8).numpy().tobytes())


def llama_shapes(layers: int, hidden: int = 2048, inner: int = 5632) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a Llama; 24 layers make 2.7 GB."""
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (32000, hidden)}
    for layer in range(layers):
        name = f"model.layers.{layer}"
        for part in "qkvo":
            shapes[f"{name}.self_attn.{part}_proj.weight"] = (hidden, hidden)
        shapes[f"{name}.mlp.gate_proj.weight"] = (inner, hidden)
        shapes[f"{name}.mlp.up_proj.weight"] = (inner, hidden)
        shapes[f"{name}.mlp.down_proj.weight"] = (hidden, inner)
        shapes[f"{name}.input_layernorm.weight"] = (hidden,)
    return shapes | {"model.norm.weight": (hidden,), "lm_head.weight": (32000, hidden)}


def shards(
    shapes: Mapping[str, tuple[int, ...]], count: int, seed: int = 0
) -> Iterator[tuple[str, Repeated | bytes]]:
    """The files of a sharded checkpoint, by name: ``count`` shards and their index."""
    names = list(shapes)
    weight_map = {}
    for number in range(count):
        path = f"model-{number + 1:05d}-of-{count:05d}.safetensors"
        chosen = names[len(names) * number // count : len(names) * (number + 1) // count]
        weight_map.update(dict.fromkeys(chosen, path))
        yield path, repeated({name: shapes[name] for name in chosen}, seed)
    index = {"metadata": {}, "weight_map": weight_map}
    yield "model.safetensors.index.json", json.dumps(index).encode()


def write_llama_lora(folder: Path, layers: int, base: str, hidden: int = 2048) -> Path:
    """A LoRA of rank 8 on q and v of a ``llama_shapes`` model."""
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(5)
    state = {}
    for layer in range(layers):
        for part in "qv":
            name = f"base_model.model.model.layers.{layer}.self_attn.{part}_proj"
            for side, shape in (("A", (8, hidden)), ("B", (hidden, 8))):
                values = 0.02 * torch.randn(shape, generator=generator)
                state[f"{name}.lora_{side}.weight"] = values.bfloat16()
    save_file(state, folder / "adapter_model.safetensors", {"format": "pt"})
    config = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return write_card(folder, "Large LoRA", base)
