"""sentence-transformers on the demo catalogue: what it loads by address does what the cards say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.client import NEWEST, Client
from tests.e2e.site import Site
from tests.e2e.visitor import Visitor

pytestmark = pytest.mark.slow

BASE = "sentence-transformers/all-MiniLM-L6-v2"
VECTOR = "ann/spam-filter"
# Accuracy of the foundation and of the equipped model, as somebody would measure it who has the
# card and nothing but this site; and what the card says.
MEASURE = """
import json, sys
from huggingface_hub import ModelCard, hf_hub_download
from sentence_transformers import SentenceTransformer

base, vector, equipped = sys.argv[1:]
head, *items = map(json.loads, open(hf_hub_download(vector, "probes.jsonl"), encoding="utf-8"))
foundation = SentenceTransformer(base)
labels = list(head["labels"])
meant = foundation.encode([head["labels"][label] for label in labels], normalize_embeddings=True)

def accuracy(model):
    found = model.encode([item["input"] for item in items], normalize_embeddings=True) @ meant.T
    right = [labels[i] == item["expected"] for i, item in zip(found.argmax(1), items)]
    return sum(right) / len(right)

ability = ModelCard.load(vector).data.to_dict()["armory"]["abilities"][0]
print(json.dumps({
    "without": accuracy(foundation),
    "with": accuracy(SentenceTransformer(equipped)),
    "card": ability,
    "n": len(items),
}))
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site with the demo catalogue."""
    running = Site(tmp_path_factory.mktemp("demo"))
    running.start()
    try:
        running.wait_until_ready()
        running.shell("from django.core.management import call_command; call_command('seed_demo')")
        yield running
    finally:
        running.close()


def test_foundation_and_equipped_model_behave_as_the_card_says(shop: Site, tmp_path: Path) -> None:
    client = Client(NEWEST, shop.address, tmp_path / "home")
    equipped = Visitor(shop).equip((VECTOR, "1")).strip("/")
    found = client.python(MEASURE, BASE, VECTOR, equipped)
    assert found["n"] == found["card"]["n"]
    slack = 2 / found["n"]  # an item on the edge may fall to either side on another machine
    assert found["without"] == pytest.approx(found["card"]["without"], abs=slack)
    assert found["with"] == pytest.approx(found["card"]["with"], abs=slack)
