"""The sizes that are measured, and the names and shapes of a Llama's tensors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

MODELS = ("base", "lowrank", "dense", "sparse")
ADAPTER = "lora"

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Size:
    """A Llama with grouped-query attention and its own output head, bf16."""

    name: str
    width: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int = 32_000

    def tensors(self) -> dict[str, Shape]:
        """Shapes by name, in the order of the files."""
        kv_width = self.width // self.heads * self.kv_heads
        shapes: dict[str, Shape] = {"model.embed_tokens.weight": (self.vocabulary, self.width)}
        for layer in range(self.layers):
            prefix = f"model.layers.{layer}"
            shapes |= {
                f"{prefix}.input_layernorm.weight": (self.width,),
                f"{prefix}.mlp.down_proj.weight": (self.width, self.inner),
                f"{prefix}.mlp.gate_proj.weight": (self.inner, self.width),
                f"{prefix}.mlp.up_proj.weight": (self.inner, self.width),
                f"{prefix}.post_attention_layernorm.weight": (self.width,),
                f"{prefix}.self_attn.k_proj.weight": (kv_width, self.width),
                f"{prefix}.self_attn.o_proj.weight": (self.width, self.width),
                f"{prefix}.self_attn.q_proj.weight": (self.width, self.width),
                f"{prefix}.self_attn.v_proj.weight": (kv_width, self.width),
            }
        shapes["model.norm.weight"] = (self.width,)
        shapes["lm_head.weight"] = (self.vocabulary, self.width)
        return shapes

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        return sum(math.prod(shape) for shape in self.tensors().values())

    def config(self) -> dict[str, Any]:
        """``config.json`` as transformers and mergekit read it."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": self.width,
            "intermediate_size": self.inner,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "vocab_size": self.vocabulary,
            "max_position_embeddings": 2048,
            "hidden_act": "silu",
            "rms_norm_eps": 1e-5,
            "rope_theta": 10_000.0,
            "initializer_range": 0.02,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
            "bos_token_id": 1,
            "eos_token_id": 2,
        }


SIZES = {
    size.name: size
    for size in (
        Size("0.25", width=1024, inner=2816, layers=16, heads=16, kv_heads=4),
        Size("1.1", width=2048, inner=5632, layers=22, heads=32, kv_heads=4),
    )
}
