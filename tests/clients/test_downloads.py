"""Downloads by the real clients: whole repositories, broken lines, models loaded straight away."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from django.conf import settings
from safetensors.torch import load_file

from tests.clients.client import Client
from tests.clients.line import line_to
from tests.e2e import models
from tests.e2e.site import Site
from tests.e2e.visitor import Visitor

pytestmark = pytest.mark.slow

SNAPSHOT = """
import json, sys
from huggingface_hub import snapshot_download
print(json.dumps(snapshot_download(sys.argv[1])))
"""


@pytest.fixture(scope="session")
def equipped(site: Site) -> str:
    """The id of a recipe that is really computed: two vectors, one of them subtracted."""
    page = Visitor(site).equip(("olive/mood", "0.75"), ("nora/french", "-0.5"))
    return page.strip("/")


def contents(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("name", [models.FOUNDATION, "olive/mood", "olive/law", "nora/french"])
def test_a_snapshot_has_the_very_files_that_were_uploaded(
    any_client: Client, folders: Path, name: str
) -> None:
    there = Path(any_client.python(SNAPSHOT, name))
    found, uploaded = contents(there), contents(folders / name)
    if name == "olive/mood":  # trained from a folder: its base is named as it is called here
        del found["adapter_config.json"], uploaded["adapter_config.json"]
        config = json.loads((there / "adapter_config.json").read_text())
        wanted = json.loads((folders / name / "adapter_config.json").read_text())
        assert config == {**wanted, "base_model_name_or_path": models.FOUNDATION}
    assert found == uploaded


def test_a_snapshot_of_an_equipped_recipe_is_what_the_engine_makes(
    any_client: Client, folders: Path, equipped: str, tmp_path: Path
) -> None:
    there = Path(any_client.python(SNAPSHOT, equipped))
    made = merged(there / "recipe.yaml", folders, tmp_path / "made")
    assert (there / "model.safetensors").read_bytes() == (made / "model.safetensors").read_bytes()
    assert "task-vector" in (there / "README.md").read_text()


def merged(recipe: Path, folders: Path, out: Path) -> Path:
    """What `python -m merging` makes of ``recipe``."""
    done = subprocess.run(
        [sys.executable, "-m", "merging", str(recipe), str(out), "--models", str(folders)],
        cwd=settings.BASE_DIR,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.parametrize("name", [models.FOUNDATION, "olive/mood"])
def test_the_cache_is_what_the_hub_says_it_is(client: Client, name: str) -> None:
    assert client.hf("download", name).returncode == 0
    done = client.hf("cache", "verify", name)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_cache_of_an_equipped_model_is_what_the_hub_says_it_is(
    client: Client, equipped: str
) -> None:
    """Its weights were hashed while they left for the first time."""
    assert client.hf("download", equipped).returncode == 0
    done = client.hf("cache", "verify", equipped)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_damaged_cache_is_found_out(client: Client) -> None:
    there = Path(client.python(SNAPSHOT, "olive/law"))
    weights = (there / "model.safetensors").resolve()
    damaged = bytearray(weights.read_bytes())
    damaged[-1] ^= 1
    weights.chmod(0o644)
    weights.write_bytes(damaged)
    done = client.hf("cache", "verify", "olive/law")
    assert done.returncode != 0
    assert "model.safetensors" in done.stdout + done.stderr


def test_files_one_by_one_and_in_folders_of_ones_own(any_client: Client, tmp_path: Path) -> None:
    done = any_client.hf(
        "download", "olive/mood", "adapter_config.json", "--local-dir", str(tmp_path / "here")
    )
    assert done.returncode == 0, done.stderr
    config = json.loads((tmp_path / "here/adapter_config.json").read_text())
    assert config["r"] == 2


def test_versions_and_commits_are_revisions(any_client: Client) -> None:
    found = any_client.python(
        """
import json
from huggingface_hub import HfApi
api = HfApi()
info = api.model_info("olive/law")
refs = api.list_repo_refs("olive/law")
commits = api.list_repo_commits("olive/law")
print(json.dumps({
    "sha": info.sha,
    "v1": api.model_info("olive/law", revision="v1").sha,
    "pinned": api.model_info("olive/law", revision=info.sha).sha,
    "main": [branch.target_commit for branch in refs.branches if branch.name == "main"],
    "tags": [tag.name for tag in refs.tags],
    "commits": [commit.commit_id for commit in commits],
    "files": sorted(api.list_repo_files("olive/law")),
}))"""
    )
    sha = found["sha"]
    assert len(sha) == 40
    assert found["v1"] == found["pinned"] == sha
    assert found["main"] == [sha]
    assert found["tags"] == ["v1"]
    assert found["commits"] == [sha]
    assert found["files"] == ["README.md", "config.json", "model.safetensors"]


def test_what_is_not_there_is_told_apart(any_client: Client) -> None:
    found = any_client.python(
        """
import json
from huggingface_hub import hf_hub_download
kinds = []
for repo, file, rev in [
    ("olive/nothing", "config.json", None),
    ("olive/law", "nothing.json", None),
    ("olive/law", "config.json", "v9"),
]:
    try:
        hf_hub_download(repo, file, revision=rev)
    except Exception as error:
        kinds.append([each.__name__ for each in type(error).__mro__])
print(json.dumps(kinds))"""
    )
    repository, entry, revision = found
    assert "RepositoryNotFoundError" in repository
    assert "EntryNotFoundError" in entry
    assert "RevisionNotFoundError" in revision


def test_headers_are_read_by_ranges(any_client: Client) -> None:
    found = any_client.python(
        """
import json
from huggingface_hub import get_safetensors_metadata
found = get_safetensors_metadata("olive/law")
print(json.dumps(found.parameter_count))"""
    )
    assert found["F32"] > 10_000


def test_a_line_cut_in_the_middle_is_resumed_by_range(
    client: Client, site: Site, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """24 MB of weights; the line breaks after 13 MB."""
    folder = tmp_path_factory.mktemp("wide") / "lab/wide"
    folder.mkdir(parents=True)
    models.repeated({"wide.weight": (4096, 3072)}).write(folder / "model.safetensors")
    models.write_card(folder, "Wide")
    site.stock(users=(), foundations=[(folder, "lab/wide")], vectors=[])
    with line_to(site.port) as line:
        line.cut_after, line.cuts = 13 << 20, 1
        there = Path(client.at(line.address).python(SNAPSHOT, "lab/wide"))
    assert line.cuts == 0
    asked = [each for each in line.requests if "range:" in each.lower()]
    assert any("bytes=10485760-" in each.lower() for each in asked), line.requests
    assert contents(there) == contents(folder)


def test_an_equipped_model_is_loaded_straight_from_its_address(
    client: Client, folders: Path, equipped: str, tmp_path: Path
) -> None:
    """`from_pretrained` of a recipe has the weights that the engine's command writes."""
    saved = tmp_path / "loaded"
    client.python(
        """
import json, sys
from transformers import AutoModel, AutoTokenizer
model = AutoModel.from_pretrained(sys.argv[1])
AutoTokenizer.from_pretrained(sys.argv[1])
model.save_pretrained(sys.argv[2])
print(json.dumps(type(model).__name__))""",
        equipped,
        str(saved),
    )
    recipe = Path(client.python(SNAPSHOT, equipped)) / "recipe.yaml"
    made = load_file(merged(recipe, folders, tmp_path / "made") / "model.safetensors")
    loaded = load_file(saved / "model.safetensors")
    assert loaded.keys() == made.keys()
    assert all(loaded[name].equal(made[name]) for name in made)


def test_a_lora_is_loaded_by_peft_and_its_base_comes_from_the_same_place(
    client: Client, site: Site, tmp_path: Path
) -> None:
    saved = tmp_path / "loaded"
    client.python(
        """
import json, sys
from peft import PeftModel
from transformers import AutoModel
base = AutoModel.from_pretrained("lab/tiny-bert")
model = PeftModel.from_pretrained(base, "olive/mood").merge_and_unload()
model.save_pretrained(sys.argv[1])
print(json.dumps("loaded"))""",
        str(saved),
    )
    page = Visitor(site).equip(("olive/mood", "1"))
    there = Path(client.python(SNAPSHOT, page.strip("/")))
    ours, theirs = load_file(there / "model.safetensors"), load_file(saved / "model.safetensors")
    for name, value in theirs.items():
        assert (ours[name] - value).abs().max() < 1e-6, name
