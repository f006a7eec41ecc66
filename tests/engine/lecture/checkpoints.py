"""Tiny checkpoints with the names of real ones, and their folders."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tests.engine.models import State
from tests.engine.token_files import CHINESE, LLAMA, bpe

__all__ = [
    "CHINESE", "LLAMA", "State", "bpe", "llama", "put", "reward_model", "stretched", "tuned",
    "vision_llama", "whisper",
]  # fmt: skip

WIDTH = 4
VOCABULARY = ("model.embed_tokens.weight", "lm_head.weight")


def _filled(shapes: Mapping[str, Sequence[int]], seed: int) -> State:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (0.5 * torch.randn(*shape, generator=generator)).bfloat16()
        for name, shape in shapes.items()
    }


def tuned(state: State, seed: int, only: str = "") -> State:
    """A fine-tune: every number (of the tensors whose names contain ``only``) moved a little."""
    generator = torch.Generator().manual_seed(1000 + seed)
    return {
        name: (value.float() + 0.05 * torch.randn(value.shape, generator=generator)).bfloat16()
        if only in name
        else value
        for name, value in state.items()
    }


def stretched(state: State, rows: int, seed: int, names: Iterable[str] = VOCABULARY) -> State:
    """``state`` with a longer vocabulary: new rows at random below the old ones."""
    generator = torch.Generator().manual_seed(2000 + seed)
    longer = dict(state)
    for name in names:
        if name in state:
            more = torch.randn(rows - len(state[name]), WIDTH, generator=generator)
            longer[name] = torch.cat([state[name], more.bfloat16()])
    return longer


def llama(rows: int = 8, layers: int = 2, seed: int = 0) -> State:
    """Llama and Mistral: a stack of layers between an embedding and an untied head."""
    shapes: dict[str, Sequence[int]] = {"model.embed_tokens.weight": (rows, WIDTH)}
    for layer in range(layers):
        shapes |= _layer(f"model.layers.{layer}")
    shapes |= {"model.norm.weight": (WIDTH,), "lm_head.weight": (rows, WIDTH)}
    return _filled(shapes, seed)


def _layer(place: str) -> dict[str, Sequence[int]]:
    return {
        f"{place}.self_attn.q_proj.weight": (WIDTH, WIDTH),
        f"{place}.self_attn.k_proj.weight": (2, WIDTH),
        f"{place}.self_attn.v_proj.weight": (2, WIDTH),
        f"{place}.self_attn.o_proj.weight": (WIDTH, WIDTH),
        f"{place}.mlp.gate_proj.weight": (6, WIDTH),
        f"{place}.mlp.up_proj.weight": (6, WIDTH),
        f"{place}.mlp.down_proj.weight": (WIDTH, 6),
        f"{place}.input_layernorm.weight": (WIDTH,),
        f"{place}.post_attention_layernorm.weight": (WIDTH,),
    }


def reward_model(state: State, seed: int) -> State:
    """A fine-tune that scores: it has a ``score`` head instead of the language model's."""
    body = {name: value for name, value in state.items() if not name.startswith("lm_head")}
    return tuned(body, seed) | _filled({"score.weight": (1, WIDTH)}, 3000 + seed)


def vision_llama(language: State, inserted: Sequence[int], seed: int) -> State:
    """Llama 3.2 Vision: a fine-tuned ``language`` with cross-attention layers at ``inserted``,
    a vision tower, and a projector."""
    body = tuned(language, seed)
    layers = {int(name.split(".")[2]) for name in body if name.startswith("model.layers.")}
    places = [at for at in range(len(layers) + len(inserted)) if at not in inserted]
    found: State = {}
    for name, value in body.items():
        parts = name.split(".")
        if parts[1] == "layers":
            parts[2] = str(places[int(parts[2])])
        found["language_model." + ".".join(parts)] = value
    shapes: dict[str, Sequence[int]] = {
        "vision_model.patch_embedding.weight": (WIDTH, 3, 2, 2),
        "vision_model.class_embedding": (WIDTH,),
        "vision_model.transformer.layers.0.self_attn.q_proj.weight": (WIDTH, WIDTH),
        "vision_model.transformer.layers.0.mlp.fc1.weight": (6, WIDTH),
        "multi_modal_projector.weight": (WIDTH, WIDTH),
        "multi_modal_projector.bias": (WIDTH,),
    }
    for at in inserted:
        place = f"language_model.model.layers.{at}"
        shapes |= {
            f"{place}.cross_attn.q_proj.weight": (WIDTH, WIDTH),
            f"{place}.cross_attn.k_norm.weight": (2,),
            f"{place}.cross_attn_attn_gate": (1,),
            f"{place}.mlp.gate_proj.weight": (6, WIDTH),
            f"{place}.input_layernorm.weight": (WIDTH,),
        }
    return _filled(shapes, 4000 + seed) | found


def whisper(rows: int = 10, layers: int = 2, seed: int = 0) -> State:
    """Whisper: encoder and decoder, convolutions, positions; the head is the embedding."""
    shapes: dict[str, Sequence[int]] = {
        "model.encoder.conv1.weight": (WIDTH, 3, 3),
        "model.encoder.conv1.bias": (WIDTH,),
        "model.encoder.embed_positions.weight": (6, WIDTH),
        "model.decoder.embed_tokens.weight": (rows, WIDTH),
        "model.decoder.embed_positions.weight": (5, WIDTH),
    }
    for side in ("encoder", "decoder"):
        for layer in range(layers):
            place = f"model.{side}.layers.{layer}"
            for attention in ("self_attn", "encoder_attn")[: 1 if side == "encoder" else 2]:
                shapes |= {
                    f"{place}.{attention}.q_proj.weight": (WIDTH, WIDTH),
                    f"{place}.{attention}.q_proj.bias": (WIDTH,),
                    f"{place}.{attention}.k_proj.weight": (WIDTH, WIDTH),
                }
            shapes |= {f"{place}.fc1.weight": (6, WIDTH), f"{place}.fc1.bias": (6,)}
        shapes[f"model.{side}.layer_norm.weight"] = (WIDTH,)
    return _filled(shapes, seed)


def put(root: Path, name: str, state: State, stem: str = "model", **files: Any) -> Path:
    """A model's folder below ``root``: weights, ``config.json`` and other JSON ``files``."""
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {each: value.clone() for each, value in state.items()}, folder / f"{stem}.safetensors"
    )
    for file, content in {"config": {"_name_or_path": name}, **files}.items():
        (folder / f"{file}.json").write_text(json.dumps(content, ensure_ascii=False))
    return folder
