"""`manage.py seed_demo` fills an empty shop once, and says what is wrong with a bad catalogue."""

import json
from pathlib import Path

import numpy as np
import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from safetensors.numpy import save_file

from marketplace.management.commands import seed_demo
from vectors import importing
from vectors.models import Foundation, Vector

pytestmark = pytest.mark.django_db


def write_model(folder: Path, shift: float, rows: int = 8) -> None:
    folder.mkdir(parents=True)
    weight = np.arange(rows * 4, dtype=np.float32).reshape(rows, 4) + np.float32(shift)
    save_file({"layer.0.weight": weight}, folder / "model.safetensors")
    (folder / "config.json").write_text('{"model_type": "bert"}')


@pytest.fixture
def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: object) -> Path:
    write_model(tmp_path / "foundations" / "tiny", 0)
    write_model(tmp_path / "vectors" / "ann" / "warmer", 1)
    (tmp_path / "tiny.md").write_text("---\nlicense: apache-2.0\n---\n# Tiny\n")
    (tmp_path / "vectors" / "ann" / "warmer" / "README.md").write_text(
        "---\nlicense: apache-2.0\n---\n# Warmer\nA little warmer.\n"
    )
    write_catalogue(tmp_path)
    monkeypatch.setattr(seed_demo, "DEMO", tmp_path)
    settings.ARMORY_DEMO_READY = tmp_path / "demo.ready"  # type: ignore[attr-defined]
    return tmp_path


def write_catalogue(demo: Path, **vector: str) -> None:
    foundation = {"id": "house/tiny", "path": "foundations/tiny", "card": "tiny.md"}
    entry = {"id": "ann/warmer", "foundation": "house/tiny", "path": "vectors/ann/warmer"} | vector
    (demo / "catalogue.json").write_text(
        json.dumps({"foundations": [foundation], "vectors": [entry]})
    )


def test_it_fills_an_empty_shop(demo: Path) -> None:
    call_command("seed_demo")
    assert Foundation.objects.count() == 1
    assert Vector.objects.published().count() == 1
    assert (demo / "demo.ready").exists()
    assert not User.objects.get(username="ann").has_usable_password()


def test_the_second_time_it_does_nothing(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call_command("seed_demo")
    with monkeypatch.context() as patch:
        patch.setattr(importing, "add_foundation", None)  # not called
        call_command("seed_demo")
    (demo / "demo.ready").unlink()  # and with the marker lost, nothing is there twice
    call_command("seed_demo")
    assert Vector.objects.published().count() == 1
    assert (demo / "demo.ready").exists()


def test_what_does_not_fit_is_named(demo: Path) -> None:
    write_model(demo / "vectors" / "ann" / "taller", 1, rows=9)
    write_catalogue(demo, id="ann/taller", path="vectors/ann/taller")
    with pytest.raises(CommandError, match="ann/taller was refused"):
        call_command("seed_demo")
    assert not (demo / "demo.ready").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"foundation": "house/other"}, "house/other, which is not among its foundations"),
        ({"path": "vectors/nobody/nothing"}, "nothing is missing"),
        ({"id": "-ann-/warmer"}, "-ann-: A name has 2 to 39"),
        ({"package": "no_such_package"}, "needs the package no_such_package"),
    ],
)
def test_a_bad_entry_is_named(demo: Path, change: dict[str, str], message: str) -> None:
    write_catalogue(demo, **change)
    with pytest.raises(CommandError, match=message):
        call_command("seed_demo")


def test_a_missing_catalogue_names_the_way_out(demo: Path) -> None:
    (demo / "catalogue.json").unlink()
    with pytest.raises(CommandError, match="make demo"):
        call_command("seed_demo")
