"""Control items of the foundations: what a vector should leave as it is.

Text: which description of a Debian package belongs to a one-line summary, among two hundred; the
packages are of sections that no topic vector learnt, and none was in a training set. Images: what
the small foundation was trained for, printed digits and upright clothes, on its held-out items.
"""

from __future__ import annotations

from pathlib import Path

from demo import cards, data, vision
from demo import tasks as texts

HERE = Path(__file__).resolve().parent
COUNT = 200  # text items
IMAGES = 150  # of each kind
SUMMARY, BODY = 25, 80  # characters at least


def descriptions() -> list[tuple[str, str]]:
    """(summary, the rest of the description) of packages that were never trained on."""
    summaries, wholes = data.descriptions("en", whole=False), data.descriptions("en")
    learnt = {*texts.SECTIONS_X, *texts.SECTIONS_Y}
    taken: set[str] = set()
    found = []
    for name, (section, source) in data.packages().items():
        if section in learnt or source in taken or not data.held_out("language-id", source):
            continue
        summary, whole = summaries.get(name, ""), wholes.get(name, "")
        body = whole.removeprefix(summary).strip()
        if len(summary) < SUMMARY or len(body) < BODY or data.COARSE.search(whole):
            continue
        taken.add(source)
        found.append((summary, body))
    return data.chosen("controls", found, COUNT)


def write_text() -> Path:
    """`controls.jsonl` of the sentence encoder."""
    head = {"probe": "Matching descriptions", "kind": "retrieval", "metric": "recall@1"}
    folder = HERE / "foundations" / texts.FOUNDATION
    return cards.write_probes(folder / "controls.jsonl", [(head, descriptions())])


def write_images() -> Path:
    """`controls.jsonl` of the image classifier."""
    sections = []
    for name, read, labels in (
        ("Printed digits", vision.print_digits, vision.DIGITS),
        ("Upright clothes", vision.clothes, vision.CLOTHES),
    ):
        images, classes = vision.pick(read()[1], IMAGES, 11)
        names = {index: label for label, index in labels.items()}
        items = zip(cards.encode_images(images), (names[int(i)] for i in classes), strict=True)
        sections.append((cards.image_probe(name, labels), list(items)))
    folder = HERE / "foundations" / vision.FOUNDATION
    return cards.write_probes(folder / "controls.jsonl", sections)
