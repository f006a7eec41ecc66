"""A model of a gigabyte there and back, by the newest client (Xet) and by an old one (LFS)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.clients.client import NEWEST, OLD, Client
from tests.clients.test_pushing import SNAPSHOT, contents, published
from tests.clients.test_xet import MIB, peak_of, spooled
from tests.e2e import models
from tests.e2e.site import Site

pytestmark = [pytest.mark.slow, pytest.mark.clients]

LAYERS = 8  # of a Llama 2048 wide: 1.1 GB in bfloat16
BASE = "lab/large"


def write(folder: Path, seed: int) -> Path:
    folder.mkdir(parents=True)
    models.repeated(models.llama_shapes(LAYERS), seed).write(folder / "model.safetensors")
    return models.write_card(folder, folder.name.title(), BASE)


@pytest.fixture(scope="module")
def large(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fine-tune of a foundation of its size, which is on the shelves."""
    root = tmp_path_factory.mktemp("large")
    site.stock(users=(), foundations=[(write(root / "base", 0), BASE)], vectors=[])
    return write(root / "tuned", 5)


@pytest.mark.parametrize("version", [NEWEST, OLD[-1]])
def test_a_gigabyte_travels(
    site: Site, tokens: dict[str, str], large: Path, tmp_path: Path, version: str
) -> None:
    client = Client(version, site.address, tmp_path / "home", tokens).signed_in("nora")
    name = f"nora/gigabyte-{version.replace('.', '-')}"
    size = (large / "model.safetensors").stat().st_size
    assert size > 10**9
    before = spooled(site)
    with peak_of(site) as grown:
        done = client.hf("upload", name, str(large), ".")
        assert done.returncode == 0, done.stderr
        published(site, name, "1", limit=240)
        there = Path(client.python(SNAPSHOT, name))
    assert contents(there) == contents(large)
    assert grown[0] < 150 * MIB
    assert (spooled(site) > before) == (version == NEWEST), "the newest comes by Xet"
