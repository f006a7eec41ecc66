"""Models equipped by an address that one types: a revision that is a sum, an id that spells it."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.clients.client import Client
from tests.clients.test_downloads import SNAPSHOT, merged
from tests.clients.test_pushing import COMMITS, published
from tests.e2e import models
from tests.e2e.site import Site

pytestmark = pytest.mark.slow

REVISION = "+olive/mood - 0.5*french"
SPELLED = "equip/tiny-bert_plus_mood_minus_0.5_french"
BOTH = """
import json, sys
from transformers import AutoModel
by_id = AutoModel.from_pretrained(sys.argv[2])
by_revision = AutoModel.from_pretrained("lab/tiny-bert", revision=sys.argv[1])
pairs = zip(by_id.state_dict().values(), by_revision.state_dict().values(), strict=True)
print(json.dumps(all(one.equal(other) for one, other in pairs)))
"""
WRONG = """
import json
from huggingface_hub import snapshot_download
found = []
for repo, revision in [("lab/tiny-bert", "+nobody"), ("equip/tiny-bert_plus_nobody", None)]:
    try:
        snapshot_download(repo, revision=revision)
    except Exception as error:
        found.append([type(error).__name__, str(error)])
print(json.dumps(found))
"""


def test_a_sum_is_loaded_by_revision_and_by_id_and_again_without_the_site(
    client: Client, folders: Path, tmp_path: Path
) -> None:
    assert client.python(BOTH, REVISION, SPELLED)
    assert client.at(client.endpoint, HF_HUB_OFFLINE="1").python(BOTH, REVISION, SPELLED)
    there = Path(client.python(SNAPSHOT, SPELLED))
    kept = {path.name for path in there.parents[2].glob("models--*")}
    assert kept == {"models--lab--tiny-bert", f"models--{SPELLED.replace('/', '--')}"}
    assert list(there.parents[2].glob(f"models--lab--*/snapshots/{there.name}"))
    made = merged(there / "recipe.yaml", folders, tmp_path / "made")
    assert (there / "model.safetensors").read_bytes() == (made / "model.safetensors").read_bytes()


def test_the_command_takes_both(client: Client, tmp_path: Path) -> None:
    here = [tmp_path / "by-id", tmp_path / "by-revision"]
    one = client.hf("download", SPELLED, "--local-dir", str(here[0]))
    other = client.hf(
        "download", models.FOUNDATION, "--revision", REVISION, "--local-dir", str(here[1])
    )
    assert (one.returncode, other.returncode) == (0, 0), one.stderr + other.stderr
    weights = [load_file(folder / "model.safetensors") for folder in here]
    assert all(weights[0][name].equal(value) for name, value in weights[1].items())


def test_a_wrong_name_is_told(client: Client) -> None:
    (first, said), (second, told) = client.python(WRONG)
    assert (first, second) == ("RevisionNotFoundError", "RepositoryNotFoundError")
    assert "There is no vector called `nobody` here." in said
    assert "There is no vector called `nobody` here." in told


def test_an_adapter_trained_from_a_folder_finds_its_base_here(client: Client) -> None:
    kind = client.python(
        """
import json
from peft import AutoPeftModelForFeatureExtraction
from transformers import AutoModel
model = AutoModel.from_pretrained("olive/mood")
AutoPeftModelForFeatureExtraction.from_pretrained("olive/mood")
print(json.dumps([type(model).__name__, list(model.peft_config)]))"""
    )
    assert kind == ["BertModel", ["default"]]


def test_an_adapter_sent_again_is_no_new_commit(
    client: Client, site: Site, folders: Path, tmp_path: Path
) -> None:
    """Neither the folder it was trained into, nor what others have of it."""
    olive = client.signed_in("olive")
    folder = models.write_lora(tmp_path / "own", folders / models.FOUNDATION, "Again", seed=31)
    assert olive.hf("upload", "olive/again", str(folder), ".").returncode == 0
    published(site, "olive/again", "1")
    there = Path(olive.python(SNAPSHOT, "olive/again"))
    for each in (folder, there):
        assert olive.hf("upload", "olive/again", str(each), ".").returncode == 0
        assert len(olive.python(COMMITS, "olive/again")) == 1
