"""Writes the held-out items and the model cards, with the numbers measured on the stored files."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from demo.about import ABOUT
from demo.evaluate import read_probes

# Held-out items that are fair to measure on but would make a poor shop window.
GRIM = re.compile(
    r"death|dead|die[ds]?\b|murder|collision|viscera|leg is|Abacha|Dear Sir|sore\b|disease|itis\b"
    r"|strange women|war\b|\bex said|drunk|damn|hell\b|crap|hate|https?|<number>|Not Surprised",
    re.IGNORECASE,
)
FORMS = {"lora": "rank-8 LoRA adapter", "full": "full checkpoint", "delta": "difference of tensors"}


def write_probes(folder: Path, head: dict[str, Any], items: list[tuple[str, str]]) -> Path:
    """`probes.jsonl`: the header, then one `{"input", "expected"}` a line."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [head] + [{"input": text, "expected": label} for text, label in items]
    path = folder / "probes.jsonl"
    path.write_text("".join(json.dumps(x, ensure_ascii=False) + "\n" for x in lines), "utf-8")
    return path


def encode_images(images: np.ndarray) -> list[str]:
    """base64 of each image's 784 raw bytes."""
    return [base64.b64encode(np.ascontiguousarray(image).tobytes()).decode() for image in images]


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


def examples(probes: Path, before: list[str], after: list[str], count: int = 3) -> list[dict]:
    """Held-out items the vector gets right, of different labels.

    Those the foundation gets wrong come first.
    """
    head, items = read_probes(probes)
    images = head["kind"] == "image-classification"
    right = [
        i
        for i, item in enumerate(items)
        if after[i] == item["expected"] and (images or not GRIM.search(item["input"]))
    ]
    right.sort(key=lambda i: (before[i] == after[i], not images and len(items[i]["input"]) > 140))
    chosen: list[dict] = []
    labels: list[str] = []
    room = -(-count // len(head["labels"]))  # of one label
    for i in right:
        label = items[i]["expected"]
        if labels.count(label) < room and len(chosen) < count:
            labels.append(label)
            shown = f"picture {i + 1} of the held-out set" if images else items[i]["input"]
            chosen.append({"input": shown, "output": label})
    return chosen


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
            "examples": examples(probes, before, after),
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
