"""Opened recipes are shared by who reads them at once, and closed when nobody does."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
import torch
from django.contrib.auth.models import AnonymousUser, User
from django.db import connections
from safetensors.torch import save_file

from merging import kept_open
from merging.kept_open import close_idle, kept_equipped
from merging.models import EquippedModel
from merging.repository import Opened
from merging.services import equip_expression
from tests.engine.models import foundation, tuned
from vectors.errors import Problem
from vectors.importing import add_foundation, add_vector
from vectors.models import Version
from vectors.storage.current import storage

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def row(tmp_path: Path, owner: User) -> Iterator[EquippedModel]:
    """Half a fine-tune on its foundation."""
    base = foundation(torch.bfloat16)
    for name, state in {"tiny": base, "fine": tuned(base, 1)}.items():
        (tmp_path / name).mkdir()
        save_file(state, tmp_path / name / "model.safetensors")
        (tmp_path / name / "README.md").write_text("---\nlicense: mit\n---\n# Tiny\n")
    tiny = add_foundation(tmp_path / "tiny", repo_id="lab/tiny")
    add_vector(tmp_path / "fine", repo_id="olive/fine", foundation=tiny, owner=owner)
    close_idle()
    yield equip_expression("0.5*olive/fine", on="lab/tiny", user=AnonymousUser())
    close_idle()


def open_count() -> int:
    return len(kept_open._kept)


def test_readers_share_one_and_the_next_finds_it_open(row: EquippedModel) -> None:
    with kept_equipped(row) as first, kept_equipped(row) as second:
        assert first is second
    with kept_equipped(row) as third:
        assert third is first


def test_nothing_is_closed_under_a_reader(row: EquippedModel) -> None:
    path = "model.safetensors"
    with closing(Opened(row)) as opened:
        size = opened.files[path].size
    pieces = Opened(row).compute(path, 0, size)
    head = next(pieces)
    close_idle()
    assert len(head + b"".join(pieces)) == size


def test_what_nobody_reads_is_closed_in_time(
    row: EquippedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_open, "IDLE_SECONDS", 0.02)
    monkeypatch.setattr(kept_open, "_timer", None)  # an earlier one waits for half a minute
    closed = threading.Event()
    close = kept_open._Kept.close

    def noted(kept: kept_open._Kept) -> None:
        close(kept)
        closed.set()

    monkeypatch.setattr(kept_open._Kept, "close", noted)
    with kept_equipped(row):
        pass
    assert closed.wait(20)
    assert open_count() == 0


def test_no_more_than_a_few_stay_open(row: EquippedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_open, "KEPT", 2)
    for weight in ("0.1", "0.2", "0.3", "0.4"):
        other = equip_expression(f"{weight}*olive/fine", on="lab/tiny", user=AnonymousUser())
        with kept_equipped(other):
            pass
        assert other.hash in kept_open._kept
    assert open_count() == 2


def test_what_cannot_be_opened_is_not_kept(row: EquippedModel) -> None:
    version = Version.objects.get(vector__name="fine")
    storage().delete(version.files.get(path="model.safetensors").blob_id)
    with pytest.raises(Problem), kept_equipped(row):
        pass
    assert open_count() == 0


def test_many_at_once_open_it_and_leave_one(row: EquippedModel) -> None:
    together = threading.Barrier(8)

    def read(_number: int) -> list[str]:
        together.wait(20)
        try:
            with kept_equipped(row) as equipment:
                return list(equipment.model.files)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(read, range(8))) == [["model.safetensors"]] * 8
    assert open_count() == 1
    assert all(kept.readers == 0 for kept in kept_open._kept.values())
