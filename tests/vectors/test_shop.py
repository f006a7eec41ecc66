"""The shop without a browser: inspection's verdicts, the catalogue, equipping, who may see what."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from django.contrib.auth.models import User
from django.test import Client
from safetensors.torch import load, save_file

from tests.engine.models import foundation as make_state
from tests.engine.models import tuned
from vectors import importing, leases, services, uploads
from vectors.cards import MAX_CARD
from vectors.errors import Refusal
from vectors.firstlook import card_text
from vectors.importing import add_foundation, add_vector
from vectors.models import Blob, Foundation, Inspection, Vector, Version
from vectors.search import index_text, query_tokens
from vectors.storage.current import storage
from vectors.tensorfile.errors import Problem
from vectors.tensorfile.source import MemorySource, read_bytes

pytestmark = pytest.mark.django_db(transaction=True)

CARD = """---
base_model: lab/tiny
license: mit
language: [en, zh]
pipeline_tag: text-classification
armory: {title: 法律推理, summary: 讀法律條文}
---
# Law
"""


def folder_with(path: Path, state: dict[str, torch.Tensor], stem: str = "model") -> Path:
    path.mkdir(parents=True)
    save_file(state, path / f"{stem}.safetensors")
    (path / "README.md").write_text(CARD)
    return path


@pytest.fixture
def tiny(tmp_path: Path) -> Foundation:
    folder = folder_with(tmp_path / "tiny", make_state(torch.float32))
    return add_foundation(folder, repo_id="lab/tiny", card="---\nlicense: mit\n---\n# Tiny\n")


@pytest.fixture
def law(tiny: Foundation, owner: User, tmp_path: Path) -> Vector:
    folder = folder_with(tmp_path / "law", tuned(make_state(torch.float32), 1))
    version = add_vector(folder, repo_id="olive/law", foundation=tiny, owner=owner)
    assert version.vector is not None
    return version.vector


def nan_state() -> dict[str, torch.Tensor]:
    state = tuned(make_state(torch.float32), 2)
    state["layers.2.weight"][3, 4] = float("nan")
    return state


def other_architecture() -> dict[str, torch.Tensor]:
    return {**tuned(make_state(torch.float32), 2), "layers.1.weight": torch.zeros(37, 54)}


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        (lambda: make_state(torch.float32), "No change"),
        (nan_state, "`layers.2.weight` has values that are not finite (1 of them"),
        (other_architecture, "`layers.1.weight` is 37 × 54 here and 37 × 53 in lab/tiny"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_tensor_and_leaves_nothing(
    tiny: Foundation, owner: User, tmp_path: Path, state: Any, sentence: str
) -> None:
    before = set(Blob.objects.values_list("pk", flat=True))
    with pytest.raises(Problem) as caught:
        add_vector(
            folder_with(tmp_path / "x", state()),
            repo_id="olive/x",
            foundation=tiny,
            owner=owner,
        )
    assert sentence in str(caught.value)
    assert set(Blob.objects.values_list("pk", flat=True)) == before
    assert not Version.objects.exists()


def test_files_dropped_meanwhile_are_stored_again(
    tiny: Foundation, owner: User, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody discards a draft with the same bytes between their copying and their entry."""
    copy_in = importing._copy_in

    def copied_and_dropped(files: Any) -> None:
        copy_in(files)
        for file in files.values():
            storage().delete(file.sha256)

    monkeypatch.setattr(importing, "_copy_in", copied_and_dropped)
    folder = folder_with(tmp_path / "x", tuned(make_state(torch.float32), 1))
    version = add_vector(folder, repo_id="olive/x", foundation=tiny, owner=owner)
    for file in version.files.all():
        assert read_bytes(storage().open(file.blob_id)) == (folder / file.path).read_bytes()


def test_other_weights_of_the_same_architecture_warn(
    tiny: Foundation, owner: User, tmp_path: Path
) -> None:
    stranger = make_state(torch.float32, seed=99)
    version = add_vector(
        folder_with(tmp_path / "x", stranger), repo_id="olive/x", foundation=tiny, owner=owner
    )
    assert "implausibly large" in version.verdict["warnings"][0]["template"]


def upload(owner: User, folder: Path) -> Version:
    """Send a folder through the upload services, as the browser does."""
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    version = uploads.start_draft(owner=owner, files=[(n, len(c)) for n, c in files.items()])
    for each in version.uploads.all():
        uploads.receive_part(upload=each, number=1, stream=io.BytesIO(files[each.path]))
        uploads.complete(each)
    version.refresh_from_db()
    return version


def test_a_job_taken_over_is_finished_once(tiny: Foundation, owner: User, tmp_path: Path) -> None:
    version = upload(owner, folder_with(tmp_path / "x", tuned(make_state(torch.float32), 1)))
    services.prepare_draft(version)
    assert version.foundation == tiny
    job = services.request_inspection(version, foundation=tiny)
    dead = leases.claim(Inspection, job.pk)
    assert dead is not None
    assert leases.claim(Inspection, job.pk) is None
    Inspection.objects.filter(pk=job.pk).update(lease_until=job.created)
    services.run_inspection(job.pk)
    services.run_inspection(job.pk)
    version.refresh_from_db()
    job.refresh_from_db()
    assert (version.state, job.state, job.attempt) == ("ready", "done", 2)
    with pytest.raises(leases.LeaseLost):
        dead.finish()
    vector = services.publish(version, name="law")
    assert vector.current == version
    assert version.files.count() == 2


@pytest.mark.parametrize("problem", [None, Refusal("It was promoted under the reader.")])
def test_a_second_look_never_touches_a_draft_that_has_gone_on(
    tiny: Foundation,
    owner: User,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    problem: Refusal | None,
) -> None:
    """The draft's page is open twice, and in the other one its foundation was confirmed."""
    state = {**make_state(torch.float32), "extra": torch.ones(2)}
    other = add_foundation(folder_with(tmp_path / "o", state), repo_id="lab/other", card="")
    version = upload(owner, folder_with(tmp_path / "x", tuned(make_state(torch.float32), 1)))
    look = services.look

    def meanwhile(*args: Any, **kwargs: Any) -> Any:
        seen = look(*args, **kwargs)
        services.request_inspection(Version.objects.get(pk=version.pk), foundation=other)
        if problem is not None:
            raise problem
        return seen

    monkeypatch.setattr(services, "look", meanwhile)
    services.prepare_draft(version)
    assert (version.state, version.foundation) == ("inspecting", other)
    assert version.uploads.count() == 2


def test_what_can_never_be_a_vector_is_refused_once(
    tiny: Foundation, owner: User, tmp_path: Path
) -> None:
    folder = folder_with(tmp_path / "x", tuned(make_state(torch.float32), 1))
    (folder / "model.safetensors").write_bytes(bytes(1000))
    version = upload(owner, folder)
    again = Version.objects.get(pk=version.pk)
    services.prepare_draft(version)
    services.prepare_draft(again)
    assert (version.state, again.state) == ("refused", "refused")
    assert "model.safetensors" in str(again.refusal)
    assert again.uploads.count() == 0


def test_a_name_of_a_base_model_is_a_text(tiny: Foundation, owner: User, tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "x", {"a.lora_A.weight": torch.ones(2, 5)}, "adapter_model")
    (folder / "README.md").unlink()
    config = {"base_model_name_or_path": "lab/\ud800\0" + "x" * 10**6, "r": 2, "lora_alpha": 2}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file(
        {"a.lora_A.weight": torch.ones(2, 5), "a.lora_B.weight": torch.ones(5, 2)},
        folder / "adapter_model.safetensors",
    )
    version = upload(owner, folder)
    services.prepare_draft(version)
    assert version.draft["named_elsewhere"].startswith("lab/??xxx")
    assert len(version.draft["named_elsewhere"]) <= 400


def test_a_card_is_read_no_further_than_it_is_kept() -> None:
    class Endless(MemorySource):
        def read_into(self, offset: int, buffer: memoryview) -> None:
            buffer[:] = b"a" * len(buffer)

    card = Endless(b"", "README.md")
    card.size = 10**15
    assert card_text({"README.md": card}) == "a" * MAX_CARD


def test_an_inspection_whose_workers_died_is_asked_for_again(
    tiny: Foundation, owner: User, tmp_path: Path
) -> None:
    version = upload(owner, folder_with(tmp_path / "x", tuned(make_state(torch.float32), 1)))
    job = services.request_inspection(version, foundation=tiny)
    rows = Inspection.objects.filter(pk=job.pk)
    rows.update(state="running", attempt=leases.MAX_ATTEMPTS, lease_until=job.created)
    leases.sweep_all()
    version.refresh_from_db()
    assert (rows.get().state, version.state) == ("failed", "received")
    services.run_inspection(services.request_inspection(version, foundation=tiny).pk)
    version.refresh_from_db()
    assert version.state == "ready"


def test_a_licence_that_is_not_on_the_list_is_kept(
    tiny: Foundation, owner: User, owner_client: Client, tmp_path: Path
) -> None:
    folder = folder_with(tmp_path / "x", tuned(make_state(torch.float32), 1))
    (folder / "README.md").write_text(CARD.replace("mit", "cc-by-sa-3.0"))
    draft = upload(owner, folder)
    services.prepare_draft(draft)
    services.run_inspection(services.request_inspection(draft, foundation=tiny).pk)
    fields = {"name": "law", "title": "Law", "license": "cc-by-sa-3.0"}
    answer = owner_client.post(f"/drafts/{draft.pk}/publish", fields)
    assert (answer.status_code, answer["Location"]) == (302, "/olive/law")
    assert Vector.objects.get().license == "cc-by-sa-3.0"


def test_what_was_typed_is_kept_where_it_is_refused(
    law: Vector, owner: User, owner_client: Client, stranger_client: Client, tmp_path: Path
) -> None:
    draft = upload(owner, folder_with(tmp_path / "x", tuned(make_state(torch.float32), 4)))
    services.prepare_draft(draft)
    services.run_inspection(services.request_inspection(draft, foundation=law.foundation).pk)
    url, fields = f"/drafts/{draft.pk}", {"name": "law", "title": "法 & Co", "card": "# Typed"}
    assert stranger_client.post(f"{url}/publish", fields).status_code == 404
    refused = owner_client.post(f"{url}/publish", fields)
    assert refused.status_code == 422
    again = owner_client.get(f"{url}/publish", follow=True)
    assert again.redirect_chain == [(url, 302)]
    for html in (refused.content.decode(), again.content.decode()):
        assert "olive/law already exists" in html
        assert 'value="法 &amp; Co"' in html
        assert "# Typed" in html
    assert owner_client.post(f"{url}/publish", {**fields, "name": "law-2"}).status_code == 302
    assert (Vector.objects.get(name="law-2").title, Version.objects.get(pk=draft.pk).draft) == (
        "法 & Co", {},
    )  # fmt: skip


def test_search_finds_two_character_chinese_words(law: Vector) -> None:
    for words in ("推理", "法律", "law", "olive"):
        assert list(Vector.objects.published().matching(words)) == [law], words
    assert not Vector.objects.published().matching("生成").exists()
    assert query_tokens("數學") == [("数学", False)]
    assert "数学" in index_text("數學").split()


def test_the_catalogue_narrows_and_says_so_when_empty(law: Vector, client: Client) -> None:
    assert "法律推理" in client.get("/vectors").content.decode()
    assert "法律推理" in client.get("/vectors?language=zh&form=full&license=mit").content.decode()
    assert "Nothing fits" in client.get("/vectors?task=translation").content.decode()
    rows = client.get("/api/models?filter=base_model:lab/tiny").json()
    assert [row["id"] for row in rows] == ["olive/law"]
    assert {"id", "tags", "sha", "likes", "downloads"} <= set(rows[0])


@pytest.mark.parametrize(
    "path", ["/", "/vectors", "/foundations", "/lab/tiny", "/olive/law", "/olive"]
)
def test_pages_open_for_everyone(law: Vector, client: Client, path: str) -> None:
    assert client.get(path).status_code == 200


def test_equip_and_download(law: Vector, tmp_path: Path, client: Client) -> None:
    answer = client.post("/equip", {"vector": "olive/law", "coefficient": "1", "on": "lab/tiny"})
    page = client.get(answer["Location"])
    assert page.status_code == 200
    slug = answer["Location"].split("/")[2].split("?")[0]
    zipped = client.get(f"/equipped/{slug}.zip")
    content = b"".join(zipped.streaming_content)  # type: ignore[attr-defined]
    assert len(content) == int(zipped["Content-Length"])
    archive = zipfile.ZipFile(io.BytesIO(content))
    names = {name.split("/", 1)[1] for name in archive.namelist()}
    assert {"README.md", "recipe.yaml", "model.safetensors"} <= names
    weights = archive.read(next(n for n in archive.namelist() if n.endswith(".safetensors")))
    fine = tuned(make_state(torch.float32), 1)
    assert all(value.equal(fine[name]) for name, value in load(weights).items())
    url = f"/equipped/{slug}/resolve/main/model.safetensors"
    part = client.get(url, headers={"Range": "bytes=1001-2002"})
    assert part.status_code == 206
    assert b"".join(part.streaming_content) == weights[1001:2003]  # type: ignore[attr-defined]
    law.refresh_from_db()
    assert law.equips == 1


def test_drafts_and_withdrawn_versions_are_their_owners(
    law: Vector, owner_client: Client, stranger_client: Client, owner: User, tmp_path: Path
) -> None:
    draft = upload(owner, folder_with(tmp_path / "x", tuned(make_state(torch.float32), 3)))
    assert stranger_client.get(f"/drafts/{draft.pk}").status_code == 404
    assert owner_client.get(f"/drafts/{draft.pk}").status_code == 200
    assert stranger_client.post("/olive/law/shelf", {"number": "1"}).status_code == 404
    assert (
        owner_client.post("/olive/law/shelf", {"number": "1", "action": "withdraw"}).status_code
        == 302
    )
    assert stranger_client.get("/olive/law").status_code == 404
    assert owner_client.get("/olive/law").status_code == 200
    for number in ("", "0", "2", "x", "²", "9" * 30):
        assert owner_client.post("/olive/law/shelf", {"number": number}).status_code == 404
