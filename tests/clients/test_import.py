"""From one Armory to another: foundations and vectors come over, whole, and once."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command

from tests.clients.line import Line, line_to
from tests.e2e import models
from tests.e2e.site import Site
from vectors import fetching
from vectors.models import Foundation, Vector

pytestmark = [pytest.mark.slow, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def line(site: Site) -> Iterator[Line]:
    """The way to the other shop, which sees what passes."""
    with line_to(site.port) as found:
        yield found
    shutil.rmtree(Path(settings.ARMORY_DATA) / "imports", ignore_errors=True)


def bring(line: Line, repo_id: str, **options: Any) -> None:
    call_command("import_model", repo_id, endpoint=line.address, **options)


def staged() -> list[str]:
    root = Path(settings.ARMORY_DATA) / "imports"
    return sorted(path.name for path in root.rglob("*") if path.is_file() and path.suffix)


def test_a_foundation_and_its_vectors_come_over(
    site: Site, line: Line, owner: User, folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(CommandError, match="which is not here: bring that first"):
        bring(line, "olive/mood", kind="vector")
    bring(line, models.FOUNDATION)
    assert "lab/tiny-bert: " in capsys.readouterr().out
    for name in ("olive/mood", "olive/law"):
        bring(line, name)
    bring(line, "nora/french", name="olive/francais")
    there = {
        name: site.row(
            "select v.digest, v.form from vectors_version v join vectors_vector x "
            "on x.current_id = v.id where x.name = ?",
            name,
        )
        for name in ("mood", "law", "french")
    }
    for name, ours in {"mood": "mood", "law": "law", "french": "francais"}.items():
        version = Vector.objects.get(namespace="olive", name=ours).current
        assert version is not None
        assert (version.digest, version.form) == there[name], name
    foundation = Foundation.objects.get()
    fingerprint, commit = site.row('select fingerprint, "commit" from vectors_foundation')
    assert (foundation.fingerprint, foundation.commit) == (fingerprint, commit)
    assert foundation.files.filter(path="tokenizer.json").exists()
    assert staged() == []


def test_what_broke_off_goes_on(
    line: Line, owner: User, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = fetching.snapshot_download

    def broken(*args: Any, allow_patterns: list[str], **options: Any) -> str:
        whole(*args, allow_patterns=["*.json"], **options)
        raise ConnectionError("the line is dead")

    monkeypatch.setattr(fetching, "snapshot_download", broken)
    with pytest.raises(CommandError, match=r"\(the line is dead\). Run it again: it goes on."):
        bring(line, models.FOUNDATION)
    monkeypatch.undo()
    line.requests.clear()
    bring(line, models.FOUNDATION)
    fetched = [each.split()[1] for each in line.requests if "/resolve/" in each]
    assert any(path.endswith("model.safetensors") for path in fetched)
    assert not any(path.endswith("config.json") for path in fetched), fetched
    bring(line, models.FOUNDATION)  # the same content again is the same row
    assert Foundation.objects.count() == 1


@pytest.mark.parametrize(
    ("repo_id", "options", "said"),
    [
        ("olive/nothing", {}, "has no olive/nothing, or it is private"),
        (models.FOUNDATION, {"revision": "v9"}, "has no revision v9"),
        ("not an id", {}, "`not an id` is no repository id"),
        ("olive/mood", {"foundation": "lab/other"}, "There is no foundation lab/other here"),
    ],
)
def test_what_cannot_be_brought_is_said(
    line: Line, db: None, repo_id: str, options: dict[str, str], said: str
) -> None:
    with pytest.raises(CommandError) as caught:
        bring(line, repo_id, **options)
    assert said in str(caught.value)
    assert not Foundation.objects.exists()
