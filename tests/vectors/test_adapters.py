"""adapter_config.json names the base that its readers find here."""

from __future__ import annotations

import json
from typing import Any

import pytest

from vectors.adapters import handed_out
from vectors.importing import store_bytes
from vectors.models import Foundation, RepositoryFile, Version

pytestmark = pytest.mark.django_db

HERE = {"base_model_name_or_path": "lab/tiny", "r": 4}


def copy_of(config: Any, path: str = "adapter_config.json", **of: Any) -> Any:
    """What is handed out for a stored configuration; None where it is the stored file."""
    content = config if isinstance(config, bytes) else json.dumps(config).encode()
    of = of or {"foundation": Foundation(pk=1, namespace="lab", name="tiny")}
    found = handed_out(Version(**of), RepositoryFile(path=path, blob=store_bytes(content)))
    return None if found is None else json.loads(found)


@pytest.mark.parametrize("base", ["/home/ann/models/tiny", "other-hub/tiny", "tiny", None, 3])
def test_another_base_becomes_the_foundation(base: Any) -> None:
    assert copy_of({"base_model_name_or_path": base, "r": 4}) == HERE
    assert copy_of({"r": 4}) == HERE


def test_a_revision_of_another_place_is_left_out() -> None:
    assert copy_of({**HERE, "revision": "0123abc"}) == {**HERE, "revision": None}


@pytest.mark.parametrize("config", [HERE, {**HERE, "revision": "main"}, [1], b"{", b"\xff"])
def test_what_is_right_or_no_configuration_stays_as_it_is(config: Any) -> None:
    assert copy_of(config) is None


def test_other_files_and_versions_without_a_foundation_stay_as_they_are() -> None:
    assert copy_of({"r": 4}, path="config.json") is None
    assert copy_of({"r": 4}, state=Version.State.UPLOADING) is None
