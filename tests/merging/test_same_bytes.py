"""The site and the command give the same bytes for the same recipe, whatever the method."""

from __future__ import annotations

import hashlib
import json
from contextlib import closing
from pathlib import Path

import pytest
import torch
from django.contrib.auth.models import User
from safetensors.torch import load, save_file

from merging.__main__ import main
from merging.card import recipe_yaml
from merging.models import EquippedModel
from merging.repository import Opened
from merging.services import equip_expression
from tests.engine.models import State, tuned
from tests.engine.models import foundation as make_state
from tests.engine.token_files import CHINESE, LLAMA, bpe
from vectors.importing import add_foundation, add_vector

pytestmark = pytest.mark.django_db(transaction=True)
WORDS = [*LLAMA, *(f"w{number}" for number in range(32))]  # forty rows


@pytest.fixture
def shelf(owner: User, tmp_path: Path) -> Path:
    """Folders named as in the catalogue, and the same models in the catalogue.

    The last one numbers its tokens another way.
    """
    root = tmp_path / "shelf"
    state = make_state(torch.bfloat16)

    def folder(repo_id: str, content: State, words: list[str]) -> Path:
        path = root / repo_id
        path.mkdir(parents=True)
        save_file(content, path / "model.safetensors", {"format": "pt"})
        (path / "tokenizer.json").write_text(json.dumps(bpe(words)))
        card = "---\nbase_model: lab/tiny\nlicense: mit\narmory: {summary: x}\n---\n# X\n"
        (path / "README.md").write_text(card)
        return path

    tiny = add_foundation(
        folder("lab/tiny", state, WORDS), repo_id="lab/tiny", card="---\nlicense: mit\n---\n# T\n"
    )
    orders = {"law": WORDS, "chat": WORDS, "turned": [*WORDS[::-1][:36], *CHINESE]}
    for seed, (name, words) in enumerate(orders.items(), start=1):
        path = folder(f"olive/{name}", tuned(state, seed), words)
        add_vector(path, repo_id=f"olive/{name}", foundation=tiny, owner=owner)
    return root


def served(row: EquippedModel) -> bytes:
    with closing(Opened(row)) as opened:
        return b"".join(opened.files["model.safetensors"].read())


@pytest.mark.parametrize(
    "line",
    [
        "law + 0.5*chat",
        "ties(law[density=0.3] + 0.5*chat, density=0.6)",
        "dare_ties(law + chat, density=0.4, seed=11)",
        "della(law + 0.7*chat, density=0.5)",
        "slerp(law, t={mlp: 0.2, *: [0, 1]})",
        "tsv(law + chat)",
        'law + turned, rule="map embed*"',
        'law + chat, rule="merge layers.1.* x 0.25 of chat", rule="keep norm*"',
    ],
)
def test_recipe_yaml_of_the_page_gives_the_file_of_the_page(
    shelf: Path, owner: User, tmp_path: Path, line: str
) -> None:
    row = equip_expression(line, on="lab/tiny", user=owner)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(recipe_yaml(row))
    assert main([str(recipe), str(tmp_path / "out"), "--models", str(shelf), "--quiet"]) == 0
    local = (tmp_path / "out" / "model.safetensors").read_bytes()
    assert hashlib.sha256(local).digest() == hashlib.sha256(served(row)).digest()


def test_rows_are_matched_by_the_tokenizers_of_the_catalogue(shelf: Path, owner: User) -> None:
    row = equip_expression('turned, rule="map embed*"', on="lab/tiny", user=owner)
    (rows,) = row.report["mapped_rows"]
    assert rows["shared"] == 36
    base = load((shelf / "lab/tiny/model.safetensors").read_bytes())["embed.weight"]
    fine = load((shelf / "olive/turned/model.safetensors").read_bytes())["embed.weight"]
    found = load(served(row))["embed.weight"]
    last = len(WORDS) - 1
    # Row 0 of `turned` is the last word; the foundation's row of that word is its last.
    wanted = base[last].float() + (fine[0].float() - base[last].float())
    assert found[last].equal(wanted.bfloat16())
    assert found[0].equal(base[0]), "a token that only the foundation has"
