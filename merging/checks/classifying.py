"""Probes of models with a classification head: texts, and pictures."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from vectors.probes import IMAGES, Probe
from vectors.tensorfile.errors import _

from .embedding import BATCH, Done, longest_of
from .loading import Loader, RunError, configuration_of, processor_of, tokenizer_of

PIXELS = 20_000_000  # of a picture
FORMATS = ("PNG", "JPEG", "WEBP")


@torch.inference_mode()
def classify(probe: Probe, folder: Path, loader: Loader, done: Done) -> list[str]:
    """For each item the label with the largest logit, among the labels of the probe."""
    pictures = probe.kind == IMAGES
    name = "AutoModelForImageClassification" if pictures else "AutoModelForSequenceClassification"
    model = loader.model(folder, name)
    classes = torch.tensor([int(number) for number in probe.labels.values()])
    if int(classes.max()) >= model.config.num_labels:
        raise RunError(
            _("The probe asks for class %(asked)d; the model's head has %(classes)d classes."),
            asked=int(classes.max()),
            classes=model.config.num_labels,
        )
    prepare = _pictures(folder) if pictures else _texts(folder)
    labels = list(probe.labels)
    found: list[str] = []
    for start in range(0, len(probe.items), BATCH):
        part = [item.input for item in probe.items[start : start + BATCH]]
        logits = model(**prepare(part, start)).logits[:, classes]
        found += [labels[i] for i in logits.argmax(-1).tolist()]
        done(len(part))
    return found


def _texts(folder: Path) -> Any:
    tokenizer = tokenizer_of(folder)
    length = longest_of(folder, tokenizer)

    def prepare(texts: list[str], _start: int) -> Any:
        return tokenizer(
            texts, padding=True, truncation=True, max_length=length, return_tensors="pt"
        )

    return prepare


def _pictures(folder: Path) -> Any:
    processor = processor_of(folder, "AutoImageProcessor")
    mode = "L" if configuration_of(folder).get("num_channels") == 1 else "RGB"

    def prepare(encoded: list[str], start: int) -> Any:
        images = [_picture(text, mode, start + n) for n, text in enumerate(encoded)]
        return processor(images=images, return_tensors="pt")

    return prepare


def _picture(encoded: str, mode: str, number: int) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(base64.b64decode(encoded)), formats=FORMATS)
        if image.width * image.height > PIXELS:
            raise ValueError("too many pixels")
        return image.convert(mode)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise RunError(
            _("Item %(number)d is not a picture that can be read."), number=number + 1
        ) from error
