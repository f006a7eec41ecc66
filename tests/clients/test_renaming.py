"""A renamed vector, by the real clients: they go on reading and pushing under its former name."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.clients.client import Client
from tests.clients.test_pushing import SNAPSHOT, contents, published
from tests.e2e import models
from tests.e2e.site import Site

pytestmark = pytest.mark.slow

MOVE = """
import json, sys
from huggingface_hub import HfApi
HfApi().move_repo(sys.argv[1], sys.argv[2])
print(json.dumps(HfApi().model_info(sys.argv[1]).id))
"""
PUSH = """
import json, sys
from huggingface_hub import HfApi
api = HfApi()
api.upload_file(path_or_fileobj=sys.argv[2], path_in_repo=sys.argv[3], repo_id=sys.argv[1])
print(json.dumps([each.path for each in api.list_repo_tree(sys.argv[1])]))
"""


@pytest.mark.parametrize("variables", [{}, {"HF_HUB_DISABLE_XET": "1"}], ids=["xet", "lfs"])
def test_a_former_name_goes_on(
    site: Site,
    any_client: Client,
    folders: Path,
    tmp_path: Path,
    variables: dict[str, str],
) -> None:
    olive = any_client.signed_in("olive").at(any_client.endpoint, **variables)
    stem = f"{'lfs' if variables else 'xet'}-{olive.version.replace('.', '-')}"
    old, new = f"olive/old-{stem}", f"olive/new-{stem}"
    base = folders / models.FOUNDATION
    folder = models.write_full(tmp_path / "old", base, "Old", seed=31)
    done = olive.hf("upload", old, str(folder), ".")
    assert done.returncode == 0, done.stderr
    published(site, old, "1")
    assert olive.python(MOVE, old, new) == new

    anybody = any_client.at(any_client.endpoint, **variables)
    assert contents(Path(anybody.python(SNAPSHOT, old))) == contents(folder)
    done = anybody.hf("download", old, "config.json", "--local-dir", str(tmp_path / "there"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "there/config.json").read_bytes() == (folder / "config.json").read_bytes()

    models.write_full(tmp_path / "more", base, "Old", seed=32)
    weights = tmp_path / "more/model.safetensors"
    seen = olive.python(PUSH, old, str(weights), "model.safetensors")
    assert "config.json" in seen
    published(site, new, "1 2")
    assert Path(anybody.python(SNAPSHOT, old), "model.safetensors").read_bytes() == (
        weights.read_bytes()
    )
