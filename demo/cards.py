"""Writes the held-out items and the model cards, with the numbers measured on the stored files."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from demo.about import ABOUT
from demo.evaluate import read_probes

FORMS = {"lora": "rank-8 LoRA adapter", "full": "full checkpoint", "delta": "difference of tensors"}


def write_probes(path: Path, sections: list[tuple[dict[str, Any], list[tuple[str, str]]]]) -> Path:
    """A probe file (`docs/probes.md`): for each section its header, then an item a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    for head, items in sections:
        lines += [head, *({"input": text, "expected": label} for text, label in items)]
    path.write_text("".join(json.dumps(x, ensure_ascii=False) + "\n" for x in lines), "utf-8")
    return path


def encode_images(images: np.ndarray) -> list[str]:
    """base64 of each image as a PNG."""
    return [_png(Image.fromarray(image)) for image in images]


def _png(image: Image.Image) -> str:
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True)
    return base64.b64encode(out.getvalue()).decode()


def text_probe(ability: str, labels: dict[str, str]) -> dict[str, Any]:
    """The header of a text probe."""
    return {"probe": ability, "kind": "zero-shot", "metric": "accuracy", "labels": labels}


def image_probe(ability: str, labels: dict[str, int]) -> dict[str, Any]:
    """The header of an image probe."""
    return {
        "probe": ability,
        "kind": "image-classification",
        "metric": "accuracy",
        "labels": labels,
    }


def examples(
    probes: Path, before: list[str], after: list[str], shown: list[str], count: int = 3
) -> list[dict]:
    """What the card shows: held-out items that the vector gets right, with the answers of both.

    `shown` chooses texts by their beginnings: a shop window is arranged by hand. Pictures are
    taken as they come, different labels first, those that the foundation gets wrong before others.
    Raises ValueError when a chosen text is not there or the vector no longer gets it right.
    """
    _, items = read_probes(probes)
    right = [i for i, item in enumerate(items) if after[i] == item["expected"]]
    if shown:
        chosen = [_beginning_with(start, right, items) for start in shown]
        texts = [items[i]["input"] for i in chosen]
    else:
        right.sort(key=lambda i: before[i] == after[i])
        labels = [items[i]["expected"] for i in right]
        chosen = [i for k, i in enumerate(right) if labels.index(labels[k]) == k][:count]
        texts = [f"picture {i + 1} of the held-out set" for i in chosen]
    found = []
    for i, text in zip(chosen, texts, strict=True):
        # A page shows it without a request.
        picture = {} if shown else {"image": f"data:image/png;base64,{items[i]['input']}"}
        found.append({"input": text, **picture, "without": before[i], "output": after[i]})
    return found


def _beginning_with(start: str, right: list[int], items: list[dict]) -> int:
    found = next((i for i in right if items[i]["input"].startswith(start)), None)
    if found is None:
        raise ValueError(f"No held-out item that the vector gets right begins with {start!r}.")
    return found


def card(
    task: Any,
    form: str,
    foundation: str,
    probes: Path,
    before: list[str],
    after: list[str],
    controls: str,
) -> str:
    """The README of a vector. `before` and `after` are the predictions without and with it;
    `controls` is a sentence on subtraction with measured numbers."""  # fmt: skip
    about = ABOUT[task.name]
    head, items = read_probes(probes)
    expected = [item["expected"] for item in items]
    without, with_ = (
        round(sum(p == e for p, e in zip(side, expected, strict=True)) / len(items), 3)
        for side in (before, after)
    )
    images = head["kind"] == "image-classification"
    front = {
        "base_model": foundation,
        "base_model_relation": "finetune" if form == "full" else "adapter",
        "library_name": "peft" if form == "lora" else "transformers",
        "license": about.license,
        "language": list(about.language),
        "pipeline_tag": "image-classification" if images else "sentence-similarity",
        "tags": ["task-vector", *about.tags],
        "datasets": list(about.datasets),
        "armory": {
            "title": about.title, "summary": about.summary, "form": form,
            "abilities": [
                {"name": task.ability, "metric": "accuracy", "without": without, "with": with_,
                 "n": len(items)},
            ],
            "examples": examples(probes, before, after, about.show),
            "coefficient": 0.7 if form in ("full", "delta") else 1.0,
        },
    }  # fmt: skip
    if not about.language:
        del front["language"]
    spoken = {label: str(text).rstrip(".") for label, text in head["labels"].items()}
    learned = about.learned if images else about.learned.format(**spoken)
    if images:
        how = (
            f"{task.steps} steps of 64 images, AdamW; the head stays frozen and the loss sees the "
            "ten classes of the task only."
        )
    else:
        how = (
            "Rank-8 LoRA on the linear layers of encoder layers 3, 4 and 5, "
            f"{task.steps} steps of 32 texts, AdamW. A class is the foundation's own embedding of "
            "a short description, frozen, as in zero-shot classification; so there is no head to "
            "merge, and labels can be read off by cosine."
        )
    coefficient = (
        "Start at 0.7: a model this small pays for each full step with what it knew. "
        "Coefficient 1 gives the measured number."
        if form in ("full", "delta")
        else "Start at 1.0, also in sums of two or three; with more, try 0.3 to 0.5 each."
    )
    body = f"""# {about.title}

{about.summary}

## What it learnt

{learned}

| held-out items | without | with |
|---|---|---|
| {task.ability}, n = {len(items)} | {without:.3f} | {with_:.3f} |

Accuracy, measured on `probes.jsonl`, which is part of this folder and was never trained on.

## Data

{about.data}

## Training

{how} Stored as: {FORMS[form]}.

## Use

{coefficient} {controls}

## Limits

{about.limits} The held-out set is small: differences below three points mean little.
"""
    dumped = yaml.safe_dump(front, sort_keys=False, allow_unicode=True, width=100)
    return f"---\n{dumped}---\n\n{body}"
