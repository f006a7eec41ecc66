"""The first look at an upload: what its headers and its card say, before any tensor is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from vectors.cards import MAX_CARD, read_card, storable
from vectors.describe import fields_from_card
from vectors.detect import Guess, guess_foundation, named_bases
from vectors.files import open_weights
from vectors.inspection import check_fit, content_shapes, open_content
from vectors.models import Foundation
from vectors.probes import CONTROLS, PROBES, read_probes
from vectors.tensorfile.checkpoint import read_json
from vectors.tensorfile.forms import FULL, LORA
from vectors.tensorfile.names import match_names
from vectors.tensorfile.source import ByteSource, read_bytes

CARD = "README.md"
MAX_FOUNDATIONS = 200  # opened at once to ask which is the closest

Find = Callable[[str], Foundation | None]


@dataclass(frozen=True)
class FirstLook:
    """Form, foundation and card of an upload, and the tensors it speaks of."""

    form: str
    guess: Guess
    card: str
    tensors: int
    nbytes: int
    shapes: Mapping[str, tuple[int, ...]]

    def as_draft(self) -> dict[str, Any]:
        """What ``Version.draft`` keeps of it."""
        return {
            "form": self.form,
            "tensors": self.tensors,
            "nbytes": self.nbytes,
            "card": self.card,
            "reason": self.guess.reason,
            "named_elsewhere": self.guess.named_elsewhere,
            "fields": fields_from_card(self.card),
        }


def look(
    files: Mapping[str, ByteSource], *, known: Foundation | None = None, find: Find | None = None
) -> FirstLook:
    """Look at the opened ``files``. Raises Problem when they can never become a vector.

    ``known`` is the foundation where it is settled already; ``find`` says which one the name of a
    base model means.
    """
    form, content, checkpoint = open_content(files)
    for path in (PROBES, CONTROLS):
        if path in files:
            read_probes(files[path])
    card = card_text(files)
    if known is not None:
        guess = Guess(known, "named")
    else:
        config = read_json(files["adapter_config.json"]) if form == LORA else {}
        named = named_bases(read_card(card).data, config)
        guess = _guess(content, form, named, find)
    return FirstLook(
        form, guess, card, len(checkpoint.tensors), checkpoint.nbytes, content_shapes(content)
    )


def card_text(files: Mapping[str, ByteSource]) -> str:
    """The card among the opened ``files``, as far as it is text a database takes."""
    if CARD not in files:
        return ""
    source = files[CARD]
    content = read_bytes(source, 0, min(source.size, 4 * MAX_CARD))  # UTF-8 takes 4 bytes at most
    return storable(content.decode("utf-8", "replace"))[:MAX_CARD]


def _guess(content: Any, form: str, named: list[str], find: Find | None) -> Guess:
    rows = Foundation.objects.all()[:MAX_FOUNDATIONS] if form == FULL else ()
    bases = {row.pk: open_weights(row) for row in rows}
    try:
        return guess_foundation(content, form, named, bases, find)
    finally:
        for base in bases.values():
            base.close()


def check_names_and_shapes(seen: FirstLook, foundation: Foundation) -> None:
    """Refuse, naming the tensor, what does not fit ``foundation`` by its headers alone."""
    base = open_weights(foundation)
    try:
        mapping, _prefix = match_names(seen.shapes, base.tensors)
        check_fit(seen.form, seen.shapes, mapping, base, foundation, [])
    finally:
        base.close()
