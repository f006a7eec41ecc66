"""Accuracy of a model folder on the held-out items of a vector (`probes.jsonl`).

Text: a text is given the label whose description lies nearest. Texts are embedded by the model
under test, descriptions by the foundation, so that every vector of the family answers to one head.
Images: the class with the largest logit among the labels of the probe.
"""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoModel, AutoModelForImageClassification, AutoTokenizer

SIDE = 28  # pixels of an image's side


def read_probes(path: Path | str, limit: int | None = None) -> tuple[dict[str, Any], list[dict]]:
    """The header line and the items of a `probes.jsonl`; `limit` keeps the first items only."""
    lines = Path(path).read_text("utf-8").splitlines()
    head, *items = [json.loads(line) for line in lines if line]
    return head, items[:limit]


@torch.no_grad()
def embed(model: Any, tokenizer: Any, texts: list[str], batch: int = 32) -> torch.Tensor:
    """Unit-length sentence embeddings, (texts, width): mean over tokens, then normalised.

    Equal to sentence-transformers on this family. Texts go in order of length: little padding.
    """
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    found: dict[int, torch.Tensor] = {}
    model.eval()
    for start in range(0, len(order), batch):
        part = order[start : start + batch]
        tokens = tokenizer(
            [texts[i] for i in part], padding=True, truncation=True, max_length=256,
            return_tensors="pt",
        )  # fmt: skip
        hidden = model(**tokens).last_hidden_state
        mask = tokens["attention_mask"][:, :, None].to(hidden.dtype)
        mean = (hidden * mask).sum(1) / mask.sum(1)
        found.update(zip(part, torch.nn.functional.normalize(mean, dim=-1), strict=True))
    return torch.stack([found[i] for i in range(len(texts))])


def predict_texts(
    model: Any, tokenizer: Any, heads: torch.Tensor, labels: list[str], texts: list[str]
) -> list[str]:
    """The nearest label of each text; `heads` are the embedded descriptions, (labels, width)."""
    nearest = (embed(model, tokenizer, texts) @ heads.T).argmax(-1).tolist()
    return [labels[i] for i in nearest]


def image_tensor(encoded: list[str]) -> torch.Tensor:
    """base64 of 28×28 PNGs → (images, 1, 28, 28) in −1…1, as the family's models expect."""
    pixels = [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert("L")) for text in encoded
    ]
    return torch.from_numpy(np.stack(pixels)).float()[:, None] / 127.5 - 1.0


@torch.no_grad()
def predict_images(model: Any, classes: dict[str, int], images: torch.Tensor) -> list[str]:
    """The best label of each image, among the labels of the probe only."""
    model.eval()
    logits = torch.cat([model(pixel_values=part).logits for part in images.split(128)])
    names = list(classes)
    best = logits[:, [classes[name] for name in names]].argmax(-1).tolist()
    return [names[i] for i in best]


def share_right(predicted: list[str], items: list[dict]) -> float:
    """Share of items whose prediction is the expected label."""
    right = sum(p == item["expected"] for p, item in zip(predicted, items, strict=True))
    return right / len(items)


def accuracy(
    model_dir: Path | str,
    probes_path: Path | str,
    *,
    limit: int | None = None,
    labels_from: Path | str | None = None,
) -> float:
    """Accuracy (0…1) of the plain transformers folder `model_dir` on the items of `probes_path`.

    `labels_from` is the foundation's folder and embeds the label descriptions of a text probe;
    without it the model under test embeds them itself, which moves the head along with the model.
    A `model_dir` without tokenizer files takes the foundation's.
    """
    head, items = read_probes(probes_path, limit)
    inputs = [item["input"] for item in items]
    if head["kind"] == "image-classification":
        model = AutoModelForImageClassification.from_pretrained(model_dir).float()
        return share_right(predict_images(model, head["labels"], image_tensor(inputs)), items)
    if head["kind"] != "zero-shot":
        raise ValueError(f"{probes_path}: unknown probe kind {head['kind']!r}.")
    own = (Path(model_dir) / "tokenizer_config.json").exists() or labels_from is None
    tokenizer = AutoTokenizer.from_pretrained(model_dir if own else labels_from)
    model = AutoModel.from_pretrained(model_dir).float()
    describer = AutoModel.from_pretrained(labels_from).float() if labels_from else model
    heads = embed(describer, tokenizer, list(head["labels"].values()))
    predicted = predict_texts(model, tokenizer, heads, list(head["labels"]), inputs)
    return share_right(predicted, items)
