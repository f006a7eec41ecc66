"""The forecast from rows: plain data, for who may see its parts, in few queries."""

from __future__ import annotations

import json
import math
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
import torch
from django.contrib.auth.models import AnonymousUser, User
from django.utils import translation
from pytest_django import DjangoAssertNumQueries
from safetensors.torch import save_file

from merging.engine.errors import RecipeError
from merging.forecasts import forecast_recipe
from tests.engine.models import foundation as make_state
from tests.engine.models import tuned
from vectors.importing import add_foundation, add_vector
from vectors.models import Foundation, Grant, Sketch, Vector, Version

pytestmark = pytest.mark.django_db(transaction=True)

EVERYBODY = AnonymousUser()
ONE = Decimal(1)


@pytest.fixture
def tiny(tmp_path: Path) -> Foundation:
    (tmp_path / "tiny").mkdir()
    save_file(make_state(torch.float32), tmp_path / "tiny" / "model.safetensors")
    return add_foundation(tmp_path / "tiny", repo_id="lab/tiny")


@pytest.fixture
def versions(tiny: Foundation, owner: User, tmp_path: Path) -> list[Version]:
    found = []
    for seed in range(1, 4):
        folder = tmp_path / str(seed)
        folder.mkdir()
        save_file(tuned(make_state(torch.float32), seed), folder / "model.safetensors")
        name = f"olive/v{seed}"
        found.append(add_vector(folder, repo_id=name, foundation=tiny, owner=owner))
    return found


def test_the_matrix_gives_the_size_of_the_sum_for_any_coefficients(
    tiny: Foundation, versions: list[Version]
) -> None:
    coefficients = [Decimal("0.7"), Decimal("-0.4"), ONE]
    terms = list(zip(versions, coefficients, strict=True))
    data = json.loads(json.dumps(forecast_recipe(foundation=tiny, terms=terms, user=EVERYBODY)))
    base = make_state(torch.float32)
    square = whole = 0.0
    for name, value in base.items():
        if value.is_floating_point():
            deltas = [tuned(base, seed)[name].double() - value.double() for seed in (1, 2, 3)]
            total = sum(float(c) * each for c, each in zip(coefficients, deltas, strict=True))
            square += float((total**2).sum())  # type: ignore[union-attr, operator]
            whole += float((value.double() ** 2).sum())
    c, gram = np.array([float(each) for each in coefficients]), np.array(data["gram"])
    assert data["base_norm"] == pytest.approx(math.sqrt(whole))
    assert data["ratio"] == pytest.approx(math.sqrt(square / whole), rel=1e-3)
    assert math.sqrt(c @ gram @ c) / data["base_norm"] == pytest.approx(data["ratio"])
    for term, version in zip(data["terms"], versions, strict=True):
        labels = [row["label"] for row in term["strip"]]
        assert labels == data["layers"] == [row["label"] for row in version.layers]
        for ours, theirs in zip(term["strip"], version.layers, strict=True):
            for key in ("norm", "ratio", "share"):  # as the inspection has them
                assert ours[key] == pytest.approx(theirs[key], rel=1e-4, abs=2e-6)
    assert [row["label"] for row in data["sum"]] == data["layers"]
    norms = [row["norm"] ** 2 for row in data["sum"]]
    assert math.sqrt(sum(norms)) == pytest.approx(data["ratio"] * data["base_norm"], rel=1e-4)
    assert [(pair["a"], pair["b"]) for pair in data["pairs"]] == [(0, 1), (0, 2), (1, 2)]
    assert {pair["verdict"] for pair in data["pairs"]} == {"independent"}
    assert data["advice"]["coefficients"] == [1, -1, 1]
    assert data["notes"] == []


def test_it_is_for_those_who_may_see_its_parts(
    tiny: Foundation, versions: list[Version], owner: User, buyer: User, stranger: User
) -> None:
    private = Vector.objects.get(name="v2")
    Vector.objects.filter(pk=private.pk).update(visibility="private", access="paid")
    Grant.objects.create(user=buyer, vector=private)
    hidden = Version.objects.get(pk=versions[1].pk)
    asked = {"foundation": tiny, "terms": [(versions[0], ONE), (hidden, ONE)]}
    for user in (owner, buyer):
        assert len(forecast_recipe(**asked, user=user)["terms"]) == 2
    onto = {"foundation": tiny, "terms": [(versions[0], ONE)], "target": hidden}
    for user in (stranger, EVERYBODY):
        for each in (asked, onto):
            with pytest.raises(RecipeError) as caught:
                forecast_recipe(**each, user=user)
            assert "v2" not in str(caught.value)
    # What is for sale may be tried before it is bought.
    Vector.objects.filter(pk=private.pk).update(visibility="public")
    seen = Version.objects.get(pk=hidden.pk)
    data = forecast_recipe(foundation=tiny, terms=[(seen, ONE)], target=versions[0], user=stranger)
    assert [(pair["a"], pair["b"]) for pair in data["pairs"]] == [(-1, 0)]


def test_a_vector_of_another_foundation_is_named(
    tiny: Foundation, versions: list[Version], tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    save_file(make_state(torch.float32, seed=5), tmp_path / "other" / "model.safetensors")
    other = add_foundation(tmp_path / "other", repo_id="lab/other")
    with pytest.raises(RecipeError, match="olive/v1 is a vector of lab/tiny and does not fit"):
        forecast_recipe(foundation=other, terms=[(versions[0], ONE)], user=EVERYBODY)


def test_a_vector_without_a_sketch_is_said_to_be_unknown_in_the_readers_language(
    tiny: Foundation, versions: list[Version], monkeypatch: pytest.MonkeyPatch
) -> None:
    Sketch.objects.filter(version=versions[1]).delete()
    terms = [(version, ONE) for version in versions]
    monkeypatch.setattr("merging.forecasts.gettext", lambda text: f"~{text}")
    with translation.override("zh-hant"):
        data = forecast_recipe(foundation=tiny, terms=terms, user=EVERYBODY)
    assert [term["known"] for term in data["terms"]] == [True, False, True]
    assert [(note["code"], note["terms"]) for note in data["notes"]] == [("unknown", [1])]
    assert data["notes"][0]["text"].startswith("~olive/v2 has no sketch yet")
    assert [(pair["a"], pair["b"]) for pair in data["pairs"]] == [(0, 2)]
    assert all(pair["text"].startswith("~") for pair in data["pairs"])


def test_more_terms_need_no_more_queries(
    tiny: Foundation, versions: list[Version], django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    loaded = Version.objects.select_related("vector").order_by("pk")
    for many in (1, 3):
        terms = [(version, ONE) for version in loaded[:many]]
        with django_assert_num_queries(1):
            forecast_recipe(foundation=tiny, terms=terms, user=EVERYBODY)
