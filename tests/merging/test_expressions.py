"""Expressions on the site: whole recipes in one line, with the catalogue's names."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import torch
from django.contrib.auth.models import User
from safetensors.torch import save_file

from merging.card import recipe_yaml
from merging.engine.document import recipe_of
from merging.engine.errors import RecipeError
from merging.engine.mergekit import read_yaml
from merging.engine.recipe import Recipe
from merging.models import EquippedModel
from merging.services import equip_expression, equip_terms, find_version
from tests.engine.models import foundation as make_state
from tests.engine.models import tuned
from tests.people import person
from vectors.importing import add_foundation, add_vector
from vectors.models import Foundation, Vector

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def shop(owner: User, tmp_path: Path) -> dict[str, str]:
    """A foundation and three vectors; digests by name."""
    state = make_state(torch.float32)

    def folder(name: str, content: dict[str, torch.Tensor]) -> Path:
        (tmp_path / name).mkdir()
        save_file(content, tmp_path / name / "model.safetensors")
        card = "---\nbase_model: lab/tiny\nlicense: mit\narmory: {summary: x}\n---\n# X\n"
        (tmp_path / name / "README.md").write_text(card)
        return tmp_path / name

    tiny = add_foundation(
        folder("tiny", state), repo_id="lab/tiny", card="---\nlicense: mit\n---\n# Tiny\n"
    )
    found = {"lab/tiny": tiny.fingerprint}
    for seed, name in enumerate(("law", "chat", "toxic"), start=1):
        version = add_vector(
            folder(name, tuned(state, seed)),
            repo_id=f"olive/{name}",
            foundation=tiny,
            owner=owner,
        )
        found[name] = version.digest
    return found


def equipped(line: str, user: Any, on: str = "") -> Recipe:
    return equip_expression(line, on=on, user=user).recipe


def test_a_plain_sum_is_what_it_was(shop: dict[str, str], owner: User) -> None:
    found = equipped("law + 0.5*olive/chat - (toxic)", owner)
    assert (found.foundation, found.target) == (shop["lab/tiny"], shop["lab/tiny"])
    assert [(term.ref, term.coefficient) for term in found.terms] == [
        (shop["law"], 1),
        (shop["chat"], Decimal("0.5")),
        (shop["toxic"], -1),
    ]
    assert found.method == "task_arithmetic"
    rows = equip_terms([(find_version("law", owner), Decimal(1))], user=owner)
    assert equipped("law", owner).hash == rows.hash


@pytest.mark.parametrize(
    ("line", "on"),
    [
        ("lab/tiny + law", ""),
        ("tiny + law", ""),
        ("law + lab/tiny", ""),
        ("law, on=lab/tiny", ""),
        ("lab/tiny + law, base=lab/tiny", ""),
        ("law", "lab/tiny"),
    ],
)
def test_the_foundation_may_be_said(shop: dict[str, str], owner: User, line: str, on: str) -> None:
    assert equipped(line, owner, on).hash == equipped("law", owner).hash


def test_a_fine_tune_is_the_target_where_it_is_named(shop: dict[str, str], owner: User) -> None:
    wanted = equipped("law", owner, on="olive/chat")
    assert wanted.target == shop["chat"]
    lines = ("olive/chat + law, on=olive/chat", "law, on=olive/chat", "chat + law, base=lab/tiny")
    for line in lines:
        assert equipped(line, owner).hash == wanted.hash
    assert equipped("chat + law", owner).target == shop["lab/tiny"]


def test_methods_parameters_rules_and_seed(shop: dict[str, str], owner: User) -> None:
    found = equipped(
        "chat + dare_ties(law[density=0.3] + 0.5*toxic, density=0.5, seed=7), on=chat,"
        ' out_dtype=bfloat16, rule="skip *embed* of toxic"',
        owner,
    )
    assert (found.method, found.seed, found.out_dtype) == ("dare_ties", 7, "BF16")
    assert found.target == shop["chat"]
    assert found.parameters == {"density": 0.5}
    assert found.terms[0].parameters == {"density": 0.3}
    assert [rule.text for rule in found.rules] == [f"skip *embed* of {shop['toxic']}"]
    assert EquippedModel.objects.get(hash=found.hash).recipe == found


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("0.5*lab/tiny + law", "lab/tiny is what the vectors are put on"),
        ("law + nobody", "There is no vector called `nobody`"),
        ("law, on=nobody/x", "There is no foundation or full fine-tune called `nobody/x`"),
        ("toxic + law, base=olive/chat", "`base` names olive/chat"),
        ('law, rule="take * from toxic"', "toxic, which is no part of the recipe"),
        ("linear(lab/tiny + law)", "lab/tiny is a foundation, not a vector"),
        ("law + ties(toxic) + chat", "Beside a method"),
    ],
)
def test_what_cannot_be_is_named(shop: dict[str, str], owner: User, line: str, named: str) -> None:
    with pytest.raises(RecipeError) as caught:
        equipped(line, owner)
    assert named in str(caught.value)
    assert not EquippedModel.objects.exists()


def test_a_draft_cannot_be_reached_through_the_target(shop: dict[str, str], owner: User) -> None:
    vector = Vector.objects.get(name="chat")
    vector.versions.update(state="draft")
    stranger = person("sam")
    for line in ("law, on=olive/chat", "olive/chat + ties(law)", "law + chat"):
        with pytest.raises(RecipeError, match="There is no"):
            equipped(line, stranger)


def test_the_recipe_beside_the_model_is_the_same_recipe(shop: dict[str, str], owner: User) -> None:
    row = equip_expression("lab/tiny + ties(law[density=0.3] + 0.5*toxic)", on="", user=owner)
    names = {"lab/tiny": shop["lab/tiny"], "olive/law": shop["law"], "olive/toxic": shop["toxic"]}
    document = read_yaml(recipe_yaml(row))
    assert recipe_of(document, lambda name, _lora: names[name]) == row.recipe
    assert Foundation.objects.count() == 1
