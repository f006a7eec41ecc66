"""Pushes by the real clients, over LFS: what fits is published by itself, what does not is refused
in the client's own words."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from pathlib import Path

import pytest

from tests.clients.client import Client
from tests.e2e import models
from tests.e2e.site import Site, stopped, wait_for

pytestmark = pytest.mark.slow

SNAPSHOT = """
import json, sys
from huggingface_hub import snapshot_download
print(json.dumps(snapshot_download(sys.argv[1])))
"""
FULL = """
import json, sys, torch
from transformers import BertModel, BertTokenizerFast
model = BertModel.from_pretrained("lab/tiny-bert")
with torch.no_grad():
    for value in model.parameters():
        value.add_(0.01)
model.push_to_hub("tuned")
BertTokenizerFast.from_pretrained("lab/tiny-bert").push_to_hub("tuned")
print(json.dumps("olive/tuned"))
"""
SIZED = """
import json, sys, torch
from transformers import BertModel
model = BertModel.from_pretrained("lab/tiny-bert")
with torch.no_grad():
    for value in model.parameters():
        value.add_(float(sys.argv[2]))
model.push_to_hub(sys.argv[1], max_shard_size=sys.argv[3])
print(json.dumps(float(model.embeddings.word_embeddings.weight[0, 0])))
"""
LOADED = """
import json, sys
from transformers import BertModel
model = BertModel.from_pretrained(sys.argv[1])
print(json.dumps(float(model.embeddings.word_embeddings.weight[0, 0])))
"""
LORA = """
import json, torch
from peft import LoraConfig, get_peft_model
from transformers import BertModel
config = LoraConfig(r=2, target_modules=["query", "value"], init_lora_weights=False)
model = get_peft_model(BertModel.from_pretrained("lab/tiny-bert"), config)
model.push_to_hub("olive/adapted")
print(json.dumps("olive/adapted"))
"""
COMMITS = """
import json, sys
from huggingface_hub import HfApi
print(json.dumps([[each.commit_id, each.title] for each in HfApi().list_repo_commits(sys.argv[1])]))
"""
DELETE = """
import json, sys
from huggingface_hub import HfApi
info = HfApi().delete_file(sys.argv[2], sys.argv[1])
print(json.dumps(info.oid))
"""
VERSIONS = (
    "SELECT group_concat(number, ' ') FROM (SELECT number FROM vectors_version v "
    "JOIN vectors_vector r ON v.vector_id = r.id "
    "WHERE r.namespace || '/' || r.name = ? AND v.state = 'published' ORDER BY number)"
)
INSPECTIONS = "SELECT count(*), max(id) FROM vectors_inspection"


@pytest.fixture
def olive(any_client: Client) -> Client:
    """The client of the owner, sending files over LFS."""
    return any_client.signed_in("olive").at(any_client.endpoint, HF_HUB_DISABLE_XET="1")


def published(site: Site, repo_id: str, numbers: str, limit: float = 120) -> None:
    """Wait until exactly these versions are on the shelves."""
    wait_for(lambda: site.row(VERSIONS, repo_id)[0], lambda seen: seen == numbers, limit)


def contents(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_folder_becomes_a_vector_and_then_its_next_versions(
    site: Site, olive: Client, folders: Path, tmp_path: Path
) -> None:
    name = f"olive/poems-{olive.version.replace('.', '-')}"
    base = folders / models.FOUNDATION
    folder = models.write_full(tmp_path / "poems", base, "Poems", seed=21)
    kept = contents(folder)
    (folder / ".gitattributes").write_text("*.bin filter=lfs\n")
    (folder / "training_args.bin").write_bytes(b"\x80\x04pickle")
    (folder / "runs").mkdir()
    (folder / "runs" / "events.out.tfevents.1.host").write_bytes(b"\0\1")

    done = olive.hf("upload", name, str(folder), ".")
    assert done.returncode == 0, done.stderr
    assert f"{olive.endpoint}/{name}/" in done.stdout, "where it can be looked at"
    published(site, name, "1")
    assert contents(Path(olive.python(SNAPSHOT, name))) == kept

    inspected = site.row(INSPECTIONS)
    (folder / "README.md").write_text((folder / "README.md").read_text() + "\nBetter told.\n")
    assert olive.hf("upload", name, str(folder), ".").returncode == 0
    published(site, name, "1 2")
    assert site.row(INSPECTIONS) == inspected, "a card needs no inspection"

    models.write_full(tmp_path / "more" / "poems", base, "Poems", seed=22)
    weights = tmp_path / "more" / "poems" / "model.safetensors"
    assert olive.hf("upload", name, str(weights), "model.safetensors").returncode == 0
    published(site, name, "1 2 3")

    oid = olive.python(DELETE, name, "config.json")
    published(site, name, "1 2 3 4")
    commits = olive.python(COMMITS, name)
    assert [commits[0][0], len(commits)] == [oid, 4]
    there = contents(Path(olive.python(SNAPSHOT, name)))
    assert sorted(there) == ["README.md", "model.safetensors"]
    assert there["model.safetensors"] == hashlib.sha256(weights.read_bytes()).hexdigest()


@pytest.mark.parametrize("form", ["lora", "delta"])
def test_other_forms_travel_as_well(
    site: Site, olive: Client, folders: Path, tmp_path: Path, form: str
) -> None:
    name = f"olive/{form}-{olive.version.replace('.', '-')}"
    writer = models.write_lora if form == "lora" else models.write_delta
    folder = writer(tmp_path / form, folders / models.FOUNDATION, form.title(), seed=23)
    done = olive.hf("upload", name, str(folder), ".")
    assert done.returncode == 0, done.stderr
    published(site, name, "1")
    there, here = contents(Path(olive.python(SNAPSHOT, name))), contents(folder)
    weights = next(path for path in here if path.endswith(".safetensors"))
    assert there[weights] == here[weights]


def test_push_to_hub_of_a_fine_tune(site: Site, client: Client) -> None:
    olive = client.signed_in("olive").at(client.endpoint, HF_HUB_DISABLE_XET="1")
    assert olive.python(FULL) == "olive/tuned"
    published(site, "olive/tuned", "1 2")  # the model, and then its tokenizer


def test_shards_replace_a_single_file_and_the_other_way_round(site: Site, client: Client) -> None:
    """What is loaded is what was pushed last, never the file that was there before."""
    olive = client.signed_in("olive").at(client.endpoint, HF_HUB_DISABLE_XET="1")
    name, kinds = "olive/resized", []
    for number, size in enumerate(("5GB", "40KB", "5GB"), 1):
        pushed = olive.python(SIZED, name, f"0.0{number}", size)
        published(site, name, " ".join(map(str, range(1, number + 1))))
        assert client.python(LOADED, name) == pushed
        there = Path(client.python(SNAPSHOT, name))
        weights = sorted(path.name for path in there.glob("*.safetensors*"))
        kinds.append(len(weights))
        index = there / "model.safetensors.index.json"
        assert set(weights) == (
            {*json.loads(index.read_text())["weight_map"].values(), index.name}
            if index.exists()
            else {"model.safetensors"}
        )
    assert kinds[0] == kinds[2] == 1 < kinds[1]


def test_push_to_hub_of_a_lora(site: Site, client: Client) -> None:
    olive = client.signed_in("olive").at(client.endpoint, HF_HUB_DISABLE_XET="1")
    assert olive.python(LORA) == "olive/adapted"
    published(site, "olive/adapted", "1")


def test_another_base_is_refused_by_the_tensors_name(
    site: Site, olive: Client, tmp_path: Path
) -> None:
    other = models.write_bert(tmp_path / "lab" / "other", hidden=48, seed=5)
    folder = models.write_full(tmp_path / "stray", other, "Stray")
    done = olive.hf("upload", "olive/stray", str(folder), ".")
    assert done.returncode != 0
    assert "embeddings.position_embeddings.weight` is 32 × 48 here and 32 × 32 in" in done.stderr
    assert site.row(VERSIONS, "olive/stray")[0] is None

    (folder / "README.md").write_text("---\nbase_model: lab/tinybert\n---\n# Stray\n")
    done = olive.hf("upload", "olive/stray", str(folder), ".")
    assert done.returncode != 0
    assert "lab/tinybert is not here. Close to it: lab/tiny-bert" in done.stderr


def test_a_push_outlives_the_worker_that_was_on_it(
    site: Site, client: Client, folders: Path, tmp_path: Path
) -> None:
    olive = client.signed_in("olive").at(client.endpoint, HF_HUB_DISABLE_XET="1")
    folder = models.write_full(tmp_path / "tough", folders / models.FOUNDATION, "Tough", seed=24)
    workers = site.processes("celery")
    with stopped(workers):
        assert olive.hf("upload", "olive/tough", str(folder), ".").returncode == 0
        assert site.row(VERSIONS, "olive/tough")[0] is None
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
    published(site, "olive/tough", "1")
    assert contents(Path(olive.python(SNAPSHOT, "olive/tough"))) == contents(folder)


def test_what_is_private_stays_so(
    site: Site, olive: Client, any_client: Client, folders: Path, tmp_path: Path
) -> None:
    name = f"olive/diary-{olive.version.replace('.', '-')}"
    base = folders / models.FOUNDATION
    folder = models.write_full(tmp_path / "diary", base, "Diary", seed=23)
    assert olive.hf("upload", "--private", name, str(folder), ".").returncode == 0
    published(site, name, "1")
    sten = any_client.signed_in("sten").at(any_client.endpoint, HF_HUB_DISABLE_XET="1")
    assert "Repository" in sten.run(SNAPSHOT, name).stderr
    done = sten.hf("upload", "olive/mood", str(folder), ".")
    assert done.returncode != 0
    assert "only its owner pushes" in done.stderr
