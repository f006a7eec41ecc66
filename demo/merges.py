"""Adds and subtracts the stored vectors with plain torch: `python -m demo.merges`.

A check that the catalogue behaves as task arithmetic promises, without the product's own engine.
Each line is one recipe with the accuracy of a few probes; a failed expectation ends the run with 1.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.utils import logging

from demo import text, vision
from demo.evaluate import (
    embed,
    image_tensor,
    predict_images,
    predict_texts,
    read_probes,
    share_right,
)
from demo.tasks import TASKS as TEXT_TASKS
from demo.train import VISION, folder_of

Terms = dict[str, float]  # vector name → coefficient
Bounds = dict[str, tuple[float, float]]  # probe name → lowest and highest accuracy that is fine

TEXT_CHECKS: list[tuple[str, Terms, Bounds]] = [
    ("addition", {"wordnet-topics": 1, "spam-filter": 1},
     {"wordnet-topics": (0.85, 1), "spam-filter": (0.88, 1)}),
    ("addition", {"movie-mood": 1, "bible-genre": 1},
     {"movie-mood": (0.76, 1), "bible-genre": (0.50, 1)}),
    ("foundation", {}, {"movie-mood": (0, 1), "spam-filter": (0, 1)}),
    ("subtraction", {"wordnet-topics": -1},
     {"wordnet-topics": (0, 0.45), "movie-mood": (0.60, 1), "spam-filter": (0.60, 1)}),
    ("subtraction", {"language-id": -1},
     {"language-id": (0, 0.45), "movie-mood": (0.62, 1), "spam-filter": (0.61, 1)}),
    ("added, then taken away", {"wordnet-topics": 1, "spam-filter": 0},
     {"wordnet-topics": (0.85, 1), "spam-filter": (0, 0.72)}),
    ("C alone", {"topic-y-en": 1}, {"topic-y-fr": (0.60, 1)}),
    ("analogy", {"topic-y-en": 1, "topic-x-fr": 0.5, "topic-x-en": -0.5},
     {"topic-y-fr": (0.60, 1)}),
    ("analogy, fully", {"topic-y-en": 1, "topic-x-fr": 1, "topic-x-en": -1},
     {"topic-y-fr": (0.60, 1)}),
    ("oracle", {"topic-y-fr": 1}, {"topic-y-fr": (0.70, 1)}),
]  # fmt: skip

VISION_CHECKS: list[tuple[str, Terms, Bounds]] = [
    ("foundation", {}, {"handwritten-digits": (0, 1), "upside-down-clothes": (0, 1)}),
    ("addition", {"handwritten-digits": 1, "upside-down-clothes": 1},
     {"handwritten-digits": (0.80, 1), "upside-down-clothes": (0.68, 1)}),
    ("addition, 0.7 each", {"handwritten-digits": 0.7, "upside-down-clothes": 0.7},
     {"handwritten-digits": (0.75, 1), "upside-down-clothes": (0.62, 1)}),
    ("subtraction", {"handwritten-digits": -0.5},
     {"handwritten-digits": (0, 0.42), "speckled-clothes": (0.5, 1)}),
    ("subtraction", {"handwritten-digits": -1},
     {"handwritten-digits": (0, 0.35), "speckled-clothes": (0.45, 1)}),
]  # fmt: skip


def delta(base: Any, model: Any) -> dict[str, torch.Tensor]:
    """τ = θ_ft − θ, tensor by tensor."""
    before = base.state_dict()
    return {name: t - before[name] for name, t in model.state_dict().items()}


def put(model: Any, base: dict[str, torch.Tensor], deltas: dict[str, dict], terms: Terms) -> None:
    """Loads θ + Σ λτ into `model`."""
    total = {name: t.clone() for name, t in base.items()}
    for vector, coefficient in terms.items():
        for name, change in deltas[vector].items():
            total[name] += coefficient * change
    model.load_state_dict(total)


def report(title: str, terms: Terms, bounds: Bounds, found: dict[str, float]) -> bool:
    """Prints one line; True when all accuracies lie inside their bounds."""
    good = all(low <= found[name] <= high for name, (low, high) in bounds.items())
    recipe = " ".join(f"{coefficient:+g}·{name}" for name, coefficient in terms.items())
    numbers = "  ".join(f"{name} {share:.3f}" for name, share in found.items())
    print(f"{'ok  ' if good else 'FAIL'} {title}: θ {recipe} → {numbers}", flush=True)
    return good


def check_text() -> bool:
    """The recipes of the text family."""
    by_name = {task.name: task for task in TEXT_TASKS}
    base, tokenizer = text.load_foundation()
    before = {name: t.clone() for name, t in base.state_dict().items()}
    used = {name for _, terms, _ in TEXT_CHECKS for name in terms}
    deltas = {n: delta(base, text.load(folder_of(by_name[n]))[0]) for n in sorted(used)}
    heads = {
        n: embed(base, tokenizer, list(by_name[n].labels.values()))
        for _, _, bounds in TEXT_CHECKS for n in bounds
    }  # fmt: skip
    good = True
    for title, terms, bounds in TEXT_CHECKS:
        put(base, before, deltas, terms)
        found = {}
        for name in bounds:
            _, items = read_probes(folder_of(by_name[name]) / "probes.jsonl")
            inputs = [item["input"] for item in items]
            labels = list(by_name[name].labels)
            found[name] = share_right(
                predict_texts(base, tokenizer, heads[name], labels, inputs), items
            )
        good &= report(title, terms, bounds, found)
    return good


def check_vision() -> bool:
    """The recipes of the vision family."""
    by_name = {task.name: task for task in vision.TASKS}
    base = vision.load_foundation(VISION)
    before = {name: t.clone() for name, t in base.state_dict().items()}
    deltas = {
        n: delta(base, vision.load_vector(task, VISION, folder_of(task)))
        for n, task in by_name.items()
    }
    good = True
    for title, terms, bounds in VISION_CHECKS:
        put(base, before, deltas, terms)
        found = {}
        for name in bounds:
            head, items = read_probes(folder_of(by_name[name]) / "probes.jsonl")
            images = image_tensor([item["input"] for item in items])
            found[name] = share_right(predict_images(base, head["labels"], images), items)
        good &= report(title, terms, bounds, found)
    return good


if __name__ == "__main__":
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    results = [check_text(), check_vision()]
    raise SystemExit(0 if all(results) else 1)
