"""Pushing without a client: names, how files travel, commits, who may what, and what goes wrong."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from django.contrib.auth.models import User
from django.test import Client, override_settings
from safetensors.torch import save

from marketplace.accounts.tokens import make_token
from marketplace.hub.gitignore import is_ignored
from merging.services import equip_expression
from tests.engine.models import State, tuned
from tests.engine.models import foundation as make_state
from tests.vectors.s3 import s3_bucket, s3_endpoint
from vectors import claims, pushes, services, uploads
from vectors.importing import add_foundation
from vectors.models import (
    Blob,
    Claim,
    Foundation,
    Inspection,
    RepositoryFile,
    Upload,
    Vector,
    Version,
)
from vectors.possession import possessed
from vectors.storage.current import storage

__all__ = ["s3_bucket", "s3_endpoint"]  # fixtures
pytestmark = pytest.mark.django_db(transaction=True)

CARD = "---\nbase_model: lab/tiny\nlicense: mit\n---\n# Poems\n"
HEADER = b'{"key": "header", "value": {}}\n'
STATE = Version.State


@dataclass
class Hub:
    """What a client of the hub protocol sends, without the client."""

    client: Client
    token: str
    repo: str = "olive/poems"

    def ask(self, method: str, path: str, body: Any = None, **query: str) -> Any:
        """An answer of the API; ``body`` is sent as JSON, or as it is."""
        content = body if isinstance(body, bytes) else json.dumps(body or {}).encode()
        return self.client.generic(
            method,
            path,
            content,
            content_type="application/json",
            headers={"Authorization": f"Bearer {self.token}"} if self.token else {},
            query_params=query,
        )

    def create(self, name: str = "poems", **fields: Any) -> Any:
        return self.ask("POST", "/api/repos/create", {"name": name, "type": "model", **fields})

    def send(self, content: bytes) -> str:
        """Send an object over LFS, as a client does; its hash."""
        oid = hashlib.sha256(content).hexdigest()
        answer = self.batch(oid, len(content))
        assert answer.status_code == 200, answer.content
        actions = answer.json()["objects"][0].get("actions")
        if not actions:
            return oid
        header = actions["upload"]["header"]
        if "chunk_size" in header:
            size, parts = int(header["chunk_size"]), []
            for number in sorted(key for key in header if key.isdigit()):
                at = (int(number) - 1) * size
                etag = put(header[number], content[at : at + size])
                parts.append({"partNumber": int(number), "etag": etag})
            body = {"oid": oid, "parts": parts}
            done = Client().post(actions["upload"]["href"], body, "application/json")
            assert done.status_code == 200, done.content
        else:
            put(actions["upload"]["href"], content)
        verified = self.ask("POST", actions["verify"]["href"], {"oid": oid, "size": len(content)})
        assert verified.status_code == 200, verified.content
        return oid

    def batch(self, oid: str, size: int, **fields: Any) -> Any:
        body = {
            "operation": "upload",
            "transfers": ["basic", "multipart"],
            "objects": [{"oid": oid, "size": size}],
            "hash_algo": "sha256",
            **fields,
        }
        return self.ask("POST", f"/{self.repo}.git/info/lfs/objects/batch", body)

    def commit(self, *lines: dict[str, Any], parent: str = "", **query: str) -> Any:
        value = {
            "summary": "A push",
            "description": "",
            **({"parentCommit": parent} if parent else {}),
        }
        body = [{"key": "header", "value": value}, *lines]
        content = b"".join(json.dumps(line).encode() + b"\n" for line in body)
        return self.ask("POST", f"/api/models/{self.repo}/commit/main", content, **query)

    def push(self, files: dict[str, str | bytes], **query: str) -> str:
        """Commit text files inside the commit and bytes over LFS; the new commit."""
        done = self.commit(*(self.line(path, content) for path, content in files.items()), **query)
        assert done.status_code == 200, done.content
        oid: str = done.json()["commitOid"]
        return oid

    def line(self, path: str, content: str | bytes) -> dict[str, Any]:
        if isinstance(content, bytes):
            return pointer(path, self.send(content))
        return inline(path, content)

    def sha(self) -> str:
        found: str = self.ask("GET", f"/api/models/{self.repo}").json()["sha"]
        return found

    def history(self) -> list[str]:
        rows = self.ask("GET", f"/api/models/{self.repo}/commits/main").json()
        return [row["id"] for row in rows]


def put(url: str, content: bytes) -> str:
    """Send bytes where they go, without any Authorization; the ETag."""
    if url.startswith("http://testserver/"):
        done = Client().put(url, content)
        assert done.status_code == 200, done.content
        return done.headers["ETag"]
    request = urllib.request.Request(url, content, method="PUT")
    with urllib.request.urlopen(request, timeout=60) as answer:
        return str(answer.headers["ETag"])


def inline(path: str, content: str) -> dict[str, Any]:
    encoded = base64.b64encode(content.encode()).decode()
    return {"key": "file", "value": {"path": path, "content": encoded, "encoding": "base64"}}


def pointer(path: str, oid: str) -> dict[str, Any]:
    return {"key": "lfsFile", "value": {"path": path, "algo": "sha256", "oid": oid}}


def deleted(path: str, kind: str = "deletedFile") -> dict[str, Any]:
    return {"key": kind, "value": {"path": path}}


def weights(seed: int, change: Callable[[State], object] = lambda _state: None) -> bytes:
    """A full fine-tune of lab/tiny."""
    state = tuned(make_state(torch.float32), seed)
    change(state)
    return save(state)


def message(answer: Any, status: int) -> str:
    assert answer.status_code == status, answer.content
    sentence: str = answer.json()["error"]
    assert answer.headers["X-Error-Message"]
    return sentence


def inspect_all() -> None:
    """Do what a worker would: every waiting inspection, oldest first."""
    for job in Inspection.objects.filter(state="queued").order_by("pk"):
        services.run_inspection(job.pk)


def hub_of(user: User, repo: str = "olive/poems", scope: str = "write") -> Hub:
    return Hub(Client(), make_token(user=user, name="test", scope=scope)[0], repo)


def add_tiny(tmp_path: Path) -> Foundation:
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "model.safetensors").write_bytes(save(make_state(torch.float32)))
    return add_foundation(tmp_path / "tiny", repo_id="lab/tiny", card="# Tiny\n")


@pytest.fixture
def tiny(tmp_path: Path) -> Foundation:
    return add_tiny(tmp_path)


@pytest.fixture
def olive(tiny: Foundation, owner: User) -> Hub:
    """The owner, with the empty repository olive/poems."""
    hub = hub_of(owner)
    assert hub.create().status_code == 200
    return hub


@pytest.fixture
def sten(stranger: User) -> Hub:
    return hub_of(stranger)


def version_of(commit: str) -> Version:
    return Version.objects.get(commit=commit)


# --- names -----------------------------------------------------------------------------------


def test_one_makes_repositories_under_ones_own_name_alone(olive: Hub, sten: Hub) -> None:
    assert olive.create("other", organization="olive").json()["url"].endswith("/olive/other")
    again = olive.create("Poems")
    assert "already" in message(again, 409)
    assert again.json()["url"].endswith("/olive/poems")
    assert "your own name, sten/" in message(sten.create("mine", organization="olive"), 403)
    assert "usable name" in message(olive.create("a..b"), 400)
    assert "only models" in message(olive.create("data", type="dataset"), 400)
    assert Claim.objects.count() == 2


def test_names_that_nothing_is_published_under_are_few(
    olive: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "MAX_CLAIMS", 2)
    assert olive.create("second").status_code == 200
    assert "delete one" in message(olive.create("third"), 409)


def test_a_token_that_may_only_read_writes_nothing(olive: Hub, owner: User) -> None:
    reader = hub_of(owner, scope="read")
    assert "may only read" in message(reader.create("more"), 403)
    assert "may only read" in message(reader.commit(inline("README.md", CARD)), 403)
    assert "Sign in" in message(Hub(Client(), "").commit(), 401)


def test_a_repository_is_moved_and_deleted(olive: Hub) -> None:
    olive.push({"model.safetensors": weights(1), "README.md": CARD})
    inspect_all()
    ids = {"fromRepo": "olive/poems", "toRepo": "olive/verse", "type": "model"}
    assert olive.ask("POST", "/api/repos/move", ids).status_code == 200
    assert [row.repo_id for row in Vector.objects.matching("verse")] == ["olive/verse"]
    away = {**ids, "fromRepo": "olive/verse", "toRepo": "sten/verse"}
    assert "stays with its owner" in message(olive.ask("POST", "/api/repos/move", away), 403)

    body = {"name": "verse", "organization": "olive", "type": "model"}
    assert olive.ask("DELETE", "/api/repos/delete", body).status_code == 200
    assert not Vector.objects.exists()
    assert not Version.objects.exists()
    kept = set(RepositoryFile.objects.values_list("blob_id", flat=True))  # the foundation's
    sent = set(Upload.objects.values_list("blob_id", flat=True))  # may be named again for a while
    assert set(Blob.objects.values_list("pk", flat=True)) == kept | sent


def test_what_models_are_equipped_with_is_not_deleted(olive: Hub, owner: User) -> None:
    olive.push({"model.safetensors": weights(1), "README.md": CARD})
    inspect_all()
    equip_expression("poems", on="", user=owner)
    body = {"name": "poems", "organization": "olive", "type": "model"}
    assert "Withdraw" in message(olive.ask("DELETE", "/api/repos/delete", body), 409)
    assert Vector.objects.get().current is not None


# --- how files travel ------------------------------------------------------------------------


def test_each_file_is_told_how_it_travels(olive: Hub) -> None:
    text = CARD
    olive.push({"README.md": text, "model.safetensors": (content := weights(1))})

    def entry(path: str, size: int, sample: bytes = b"text") -> dict[str, Any]:
        return {"path": path, "size": size, "sample": base64.b64encode(sample).decode()}

    files = [
        entry("README.md", len(text)),
        entry("model.safetensors", len(content)),
        entry("tokenizer.json", 2_000_000),
        entry("spiece.model", 100, b"\0\1"),
        entry("vocab.txt", 100, "詞".encode()[:2]),
        entry("training_args.bin", 100, b"\x80"),
        entry("runs/a/events.out.tfevents.1.x", 100, b"\0"),
        entry(".gitattributes", 100),
        entry("data/x.json", 100),
    ]
    body = {"files": files, "gitIgnore": "data/"}
    answer = olive.ask("POST", "/api/models/olive/poems/preupload/main", body)
    rows = {row["path"]: row for row in answer.json()["files"]}
    assert {path: row["uploadMode"] for path, row in rows.items() if not row["shouldIgnore"]} == {
        "README.md": "regular",
        "model.safetensors": "lfs",
        "tokenizer.json": "lfs",
        "spiece.model": "lfs",
        "vocab.txt": "regular",
    }
    head = f"blob {len(text)}\0".encode()
    assert rows["README.md"]["oid"] == hashlib.sha1(head + text.encode()).hexdigest()  # noqa: S324
    assert rows["model.safetensors"]["oid"] == hashlib.sha256(content).hexdigest()
    assert "training_args.bin" in answer.headers["X-HF-Warning"]
    assert "data/x.json" not in answer.headers["X-HF-Warning"]

    pickle = {"files": [entry("pytorch_model.bin", 100)]}
    answer = olive.ask("POST", "/api/models/olive/poems/preupload/main", pickle)
    assert "pytorch_model.bin is not accepted" in message(answer, 400)
    outside = {"files": [entry("../x.json", 100)]}
    answer = olive.ask("POST", "/api/models/olive/poems/preupload/main", outside)
    assert "not a usable file name" in message(answer, 400)


IGNORE = """# data and what a run leaves
data/
*.log
!kept.log
/notes.json
a/**/z.json
wandb
"""


@pytest.mark.parametrize(
    ("path", "ignored"),
    [
        ("data/x.json", True),
        ("sub/data/x.json", True),
        ("data", False),  # a file
        ("run.log", True),
        ("deep/run.log", True),
        ("kept.log", False),
        ("data/kept.log", True),
        ("notes.json", True),
        ("sub/notes.json", False),
        ("a/z.json", True),
        ("a/b/c/z.json", True),
        ("b/a/z.json", False),
        ("wandb/run/config.json", True),
        ("model.safetensors", False),
    ],
)
def test_a_gitignore_is_heeded(path: str, ignored: bool) -> None:
    assert is_ignored(path, IGNORE) is ignored
    assert not is_ignored(path, "")


def test_large_objects_travel_in_parts(olive: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "PART", 10_000)
    content = weights(1)
    assert len(content) > 20_000
    oid = hashlib.sha256(content).hexdigest()
    header = olive.batch(oid, len(content)).json()["objects"][0]["actions"]["upload"]["header"]
    assert len(header) == 1 + -(-len(content) // 10_000)
    one = olive.batch(oid, len(content), transfers=["basic"]).json()["objects"][0]
    assert one["error"]["code"] == 422
    olive.push({"model.safetensors": content, "README.md": CARD})
    again = olive.batch(oid, len(content)).json()["objects"][0]
    assert again == {"oid": oid, "size": len(content)}, "what is here is not sent again"


def test_with_s3_the_bytes_go_there_and_nowhere_else(
    s3_endpoint: str,
    s3_bucket: str,
    owner: User,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with override_settings(ARMORY_S3_BUCKET=s3_bucket, ARMORY_S3_ENDPOINT=s3_endpoint):
        add_tiny(tmp_path)
        olive = hub_of(owner)
        olive.create()
        content = weights(1)
        oid = hashlib.sha256(content).hexdigest()
        actions = olive.batch(oid, len(content)).json()["objects"][0]["actions"]
        assert actions["upload"]["href"].startswith(s3_endpoint)
        commit = olive.push({"README.md": CARD, "model.safetensors": content})
        inspect_all()
        assert version_of(commit).number == 1
        assert storage().size(oid) == len(content)
        monkeypatch.setattr(uploads, "PART", 5 << 20)  # the least that S3 takes
        large = bytes(5 << 20) + b"and a second part"
        assert storage().size(olive.send(large)) == len(large)


def test_damaged_bytes_are_noticed_and_can_be_sent_again(olive: Hub) -> None:
    content = weights(1)
    oid = hashlib.sha256(content).hexdigest()
    actions = olive.batch(oid, len(content)).json()["objects"][0]["actions"]
    Client().put(actions["upload"]["href"], bytes(len(content)))
    answer = olive.ask("POST", actions["verify"]["href"], {"oid": oid, "size": len(content)})
    assert "SHA-256" in message(answer, 400)
    assert not Upload.objects.exists()
    assert olive.send(content) == oid


def test_an_address_for_bytes_is_good_for_those_alone(olive: Hub, sten: Hub) -> None:
    oid = hashlib.sha256(b"x" * 100).hexdigest()
    actions = olive.batch(oid, 100).json()["objects"][0]["actions"]
    forged = actions["upload"]["href"].replace("signature=", "signature=0")
    assert Client().put(forged, b"x" * 100).status_code == 403
    assert Client().put(actions["upload"]["href"], b"x" * 100).status_code == 200
    answer = sten.ask("POST", actions["verify"]["href"], {"oid": oid, "size": 100})
    assert answer.status_code == 404


# --- commits ---------------------------------------------------------------------------------


def test_a_push_is_a_version_once_it_was_inspected(olive: Hub, sten: Hub) -> None:
    first = olive.push({"README.md": CARD, "model.safetensors": weights(1)})
    version = version_of(first)
    assert (version.state, version.vector) == (STATE.INSPECTING, None)
    assert sten.ask("GET", "/api/models/olive/poems").status_code == 404
    inspect_all()
    version.refresh_from_db()
    assert (version.state, version.number, version.commit) == (STATE.PUBLISHED, 1, first)
    assert sten.sha() == first
    assert not Claim.objects.exists()

    second = olive.push({"model.safetensors": weights(2)})
    assert (olive.sha(), sten.sha()) == (second, first)
    inspect_all()
    assert sten.sha() == second
    assert olive.history() == [second, first]
    assert set(version_of(second).files.values_list("path", flat=True)) == {
        "README.md",
        "model.safetensors",
    }


def test_a_card_alone_needs_no_inspection(olive: Hub) -> None:
    olive.push({"README.md": CARD, "model.safetensors": weights(1)})
    inspect_all()
    commit = olive.push({"README.md": CARD.replace("Poems", "Verse")})
    version = version_of(commit)
    assert (version.state, version.number) == (STATE.PUBLISHED, 2)
    assert not Inspection.objects.filter(version=version).exists()
    first = Version.objects.get(number=1)
    assert (version.verdict, version.digest) == (first.verdict, first.digest)
    assert version.sketch.blob_id == first.sketch.blob_id
    assert version.vector is not None
    assert version.vector.title == "Verse"


def test_a_card_pushed_while_the_weights_are_inspected(
    olive: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    olive.push({"README.md": CARD, "model.safetensors": weights(1)})
    olive.push({"README.md": CARD.replace("Poems", "Verse")})
    looked: list[Version] = []
    inspect = services.inspect_files

    def counted(version: Version, *arguments: Any) -> Any:
        looked.append(version)
        return inspect(version, *arguments)

    monkeypatch.setattr(services, "inspect_files", counted)
    inspect_all()
    assert len(looked) == 1, "the same weights are read once"
    assert [version.number for version in Version.objects.order_by("pk")] == [1, 2]


def test_of_two_pushes_the_newer_may_be_ready_first(olive: Hub) -> None:
    first = olive.push({"README.md": CARD, "model.safetensors": weights(1)})
    second = olive.push({"model.safetensors": weights(2)})
    for job in Inspection.objects.order_by("-pk"):
        services.run_inspection(job.pk)
    version = Version.objects.get()
    assert (version.commit, version.number, version.state) == (second, 1, STATE.PUBLISHED)
    assert olive.history() == [second]
    assert first not in olive.history()


def test_weights_may_come_in_several_commits(olive: Hub, sten: Hub) -> None:
    state = tuned(make_state(torch.float32), 1)
    names = sorted(state)
    shards = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    halves = [names[::2], names[1::2]]
    index = {
        "weight_map": {
            name: shard for shard, half in zip(shards, halves, strict=True) for name in half
        }
    }
    saved = [save({name: state[name] for name in half}) for half in halves]
    first = olive.push({"README.md": CARD, shards[0]: saved[0]})
    assert version_of(first).state == STATE.UPLOADING
    assert version_of(first).draft["missing"] == "model.safetensors.index.json"
    assert olive.sha() == first
    second = olive.push({"model.safetensors.index.json": json.dumps(index)})
    assert version_of(second).draft["missing"] == shards[1]
    assert sten.ask("GET", "/api/models/olive/poems").status_code == 404
    third = olive.push({shards[1]: saved[1]})
    assert version_of(third).state == STATE.INSPECTING
    inspect_all()
    assert sten.sha() == third
    assert olive.history() == [third], "what was incomplete is no part of the history"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda s: s.update({"layers.1.weight": torch.zeros(37, 54)}), "`layers.1.weight` is 37"),
        (lambda s: s.pop("layers.1.weight"), "`layers.1.weight` is missing"),
    ],
)
def test_what_headers_show_is_refused_at_once(olive: Hub, change: Any, sentence: str) -> None:
    before = olive.sha()
    answer = olive.commit(
        inline("README.md", CARD), olive.line("model.safetensors", weights(1, change))
    )
    assert sentence in message(answer, 400)
    assert sentence in answer.headers["X-Error-Message"]
    assert olive.sha() == before
    assert not Version.objects.exists()


def test_what_the_inspection_refuses_leaves_the_history_but_not_the_owners_page(
    olive: Hub, owner_client: Client
) -> None:
    def spoil(state: State) -> None:
        state["layers.2.weight"][3, 4] = float("nan")

    first = olive.push({"README.md": CARD, "model.safetensors": weights(1)})
    inspect_all()
    commit = olive.push({"model.safetensors": weights(1, spoil)})
    inspect_all()
    refused = version_of(commit)
    assert refused.state == STATE.REFUSED
    assert (olive.sha(), olive.history()) == (first, [first])
    page = owner_client.get(f"/drafts/{refused.pk}").content.decode()
    assert "layers.2.weight" in page
    listed = owner_client.get("/olive").content.decode()
    assert "layers.2.weight" in listed
    olive.push({"model.safetensors": weights(3)})
    inspect_all()
    assert not Version.objects.filter(pk=refused.pk).exists()


def test_no_foundation_at_all(olive: Hub) -> None:
    stray = save({"a": torch.ones(3, 3), "b": torch.ones(5)})
    answer = olive.commit(olive.line("model.safetensors", stray))
    assert "No foundation here has tensors of these names" in message(answer, 400)
    files = {"README.md": "---\nbase_model: acme/big\n---\n", "model.safetensors": stray}
    answer = olive.commit(*(olive.line(*item) for item in files.items()))
    assert "acme/big, the base model it names, is not" in message(answer, 400)


def test_all_versions_are_of_one_foundation(olive: Hub, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = {name: value + 1 for name, value in make_state(torch.float32).items()}
    (tmp_path / "other" / "model.safetensors").write_bytes(save(other))
    add_foundation(tmp_path / "other", repo_id="lab/other", card="# Other\n")
    first = olive.push({"README.md": CARD, "model.safetensors": weights(1)})
    card = CARD.replace("lab/tiny", "lab/other")
    second = olive.push({"README.md": card, "model.safetensors": weights(2)})
    inspect_all()
    assert version_of(first).number == 1
    assert version_of(second).state == STATE.REFUSED
    assert "so are all its versions" in version_of(second).refusal["template"]


def test_the_upload_form_fulfils_a_claim(olive: Hub, owner: User, owner_client: Client) -> None:
    olive.create("by-hand", visibility="private")
    content = weights(1)
    version = uploads.start_draft(owner=owner, files=[("model.safetensors", len(content))])
    upload = version.uploads.get()
    uploads.receive_part(upload=upload, number=1, stream=io.BytesIO(content))
    uploads.complete(upload)
    owner_client.get(f"/drafts/{version.pk}")
    version.refresh_from_db()
    assert version.foundation is not None
    services.request_inspection(version, foundation=version.foundation)
    inspect_all()
    done = owner_client.post(f"/drafts/{version.pk}/publish", {"name": "by-hand"})
    assert done.headers["Location"] == "/olive/by-hand"
    assert Vector.objects.get().visibility == "private"
    assert not Claim.objects.filter(name="by-hand").exists()


def test_a_commit_on_another_parent_is_not_taken(olive: Hub) -> None:
    empty = olive.sha()
    first = olive.push({"README.md": CARD}, parent=empty)
    answer = olive.commit(inline("README.md", "other"), parent=empty)
    assert "another commit" in message(answer, 412)
    assert olive.push({"README.md": "other"}, parent=first[:8])


def test_two_pushes_at_once_are_both_kept(olive: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    examine = pushes.examine
    meanwhile: list[str] = []

    def interrupted(*arguments: Any) -> Any:
        if not meanwhile:
            meanwhile.append("")
            meanwhile[0] = olive.push({"config.json": "{}"})
        return examine(*arguments)

    monkeypatch.setattr(pushes, "examine", interrupted)
    mine = olive.push({"README.md": CARD})
    assert olive.history()[:2] == [mine, meanwhile[0]]
    assert set(version_of(mine).files.values_list("path", flat=True)) == {
        "config.json",
        "README.md",
    }


def test_a_push_that_is_cut_off_leaves_nothing(olive: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    content = weights(1)
    oid = olive.send(content)
    monkeypatch.setattr(services, "request_inspection", _killed)
    with pytest.raises(KeyboardInterrupt):
        olive.commit(inline("README.md", CARD), pointer("model.safetensors", oid))
    assert not Version.objects.exists()
    monkeypatch.undo()
    olive.push({"README.md": CARD, "model.safetensors": content})
    inspect_all()
    assert Vector.objects.get().repo_id == "olive/poems"


def _killed(*_arguments: Any, **_named: Any) -> None:
    raise KeyboardInterrupt


def test_a_worker_killed_before_publication_publishes_when_it_is_back(
    olive: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = olive.push({"README.md": CARD, "model.safetensors": weights(1)})
    monkeypatch.setattr(services, "publish", _killed)
    with pytest.raises(KeyboardInterrupt):
        inspect_all()
    assert version_of(commit).state == STATE.INSPECTING
    monkeypatch.undo()
    Inspection.objects.update(state="queued")  # its lease has run out
    inspect_all()
    assert version_of(commit).number == 1


def test_nothing_changed_is_no_commit(olive: Hub) -> None:
    empty = olive.sha()
    assert olive.push({}) == empty
    commit = olive.push({"README.md": CARD})
    assert olive.push({"README.md": CARD}) == commit
    assert olive.push({".gitattributes": "x", "train.py": "import os"}) == commit


def test_files_and_folders_go(olive: Hub) -> None:
    olive.push({"README.md": CARD, "a/x.json": "1", "a/y.json": "2", "b.json": "3"})
    done = olive.commit(deleted("a", "deletedFolder"), deleted("b.json"), deleted(".gitattributes"))
    paths = set(version_of(done.json()["commitOid"]).files.values_list("path", flat=True))
    assert paths == {"README.md"}
    answer = olive.commit(deleted("b.json"))
    assert "A file with this name doesn't exist" in message(answer, 404)
    assert answer.headers["X-Error-Code"] == "EntryNotFound"
    answer = olive.commit(inline("README.md/x.json", "1"))
    assert "a file and a folder" in message(answer, 400)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"", "not even a header"),
        (b"nonsense\n", "Line 1 of the commit cannot be read"),
        (
            b'{"key": "file", "value": {"path": "a", "content": "", "encoding": "base64"}}\n',
            "begins",
        ),
        (HEADER + b'{"key": "gift", "value": {}}', "not known here"),
        (
            HEADER
            + b'{"key": "file", "value": {"path": "a", "content": "?", "encoding": "base64"}}',
            "content of a is not base64",
        ),
        (
            HEADER + b'{"key": "lfsFile", "value": {"path": "a", "oid": "12"}}',
            "not named by a SHA-256",
        ),
    ],
)
def test_a_commit_that_cannot_be_read(olive: Hub, body: bytes, sentence: str) -> None:
    answer = olive.ask("POST", "/api/models/olive/poems/commit/main", body)
    assert sentence in message(answer, 400)


def test_only_main_takes_pushes_and_nobody_asks_for_pulls(olive: Hub) -> None:
    assert "no pull requests" in message(olive.commit(create_pr="1"), 400)
    answer = olive.ask("POST", "/api/models/olive/poems/preupload/dev", {"files": []})
    assert answer.headers["X-Error-Code"] == "RevisionNotFound"


# --- who may what ----------------------------------------------------------------------------


def test_a_hash_opens_nobody_elses_file(olive: Hub, sten: Hub, stranger: User) -> None:
    content = weights(1)
    oid = olive.send(content)
    assert sten.create("thief").status_code == 200
    sten.repo = "sten/thief"
    assert "actions" in sten.batch(oid, len(content)).json()["objects"][0], "it must be sent"
    answer = sten.commit(pointer("model.safetensors", oid))
    assert "named by its hash but not sent" in message(answer, 400)

    olive.ask("DELETE", "/api/repos/delete", {"name": "poems", "type": "model"})
    olive.create("poems", visibility="private")
    olive.push({"README.md": CARD, "model.safetensors": content})
    inspect_all()
    assert possessed(stranger, oid) is None
    Vector.objects.update(visibility="public")
    assert possessed(stranger, oid) is not None, "what one may read one may copy"
    Vector.objects.update(access="manual")
    assert possessed(stranger, oid) is None


def test_strangers_do_not_push(olive: Hub, sten: Hub) -> None:
    assert sten.commit(inline("README.md", CARD)).status_code == 404
    assert sten.batch("0" * 64, 5).status_code == 404
    olive.push({"README.md": CARD, "model.safetensors": weights(1)})
    inspect_all()
    assert "only its owner pushes" in message(sten.commit(inline("README.md", CARD)), 403)
    assert "only its owner pushes" in message(sten.batch("0" * 64, 5), 403)
    sten.repo = "lab/tiny"
    assert "foundation" in message(sten.commit(inline("README.md", CARD)), 403)


def test_a_fine_tune_of_a_fine_tune_belongs_to_the_same_foundation(
    olive: Hub, tiny: Foundation, owner: User
) -> None:
    olive.push({"README.md": CARD, "model.safetensors": weights(1)})
    inspect_all()
    olive.create("more")
    olive.repo = "olive/more"
    card = CARD.replace("lab/tiny", "olive/poems")
    olive.push({"README.md": card, "model.safetensors": weights(2)})
    inspect_all()
    assert Vector.objects.get(name="more").foundation == tiny
    olive.create("merged")
    olive.repo = "olive/merged"
    equipped = equip_expression("poems - 0.5*more", on="", user=owner).repo_id
    card = CARD.replace("lab/tiny", equipped)
    checked = olive.ask("POST", "/api/validate-yaml", {"content": card, "repoType": "model"})
    assert checked.json() == {"errors": [], "warnings": []}
    olive.push({"README.md": card, "model.safetensors": weights(3)})
    inspect_all()
    assert Vector.objects.get(name="merged").foundation == tiny


# --- cards, branches, tags -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("card", "sentence"),
    [
        (CARD, ""),
        ("# No front matter", ""),
        ("---\nbase_model: /home/olive/tiny\n---\n", ""),
        ("---\nbase_model: tiny\n---\n", ""),
        ("---\nbase_model: lab/tini\n---\n", "lab/tini is not here. Close to it: lab/tiny."),
        ("---\nbase_model: meta/llama-9\n---\n", "listed at /foundations"),
        ("---\n: [\n---\n", "front matter cannot be read"),
    ],
)
def test_a_card_is_checked_before_anything_travels(olive: Hub, card: str, sentence: str) -> None:
    answer = olive.ask("POST", "/api/validate-yaml", {"content": card, "repoType": "model"})
    if not sentence:
        assert (answer.status_code, answer.json()["errors"]) == (200, [])
        return
    assert sentence in message(answer, 400)
    assert sentence in answer.json()["errors"][0]["message"]


def test_versions_get_names(olive: Hub, sten: Hub) -> None:
    api = "/api/models/olive/poems"
    olive.push({"README.md": CARD})
    assert "none yet" in message(olive.ask("POST", f"{api}/branch/dev"), 400)
    first = olive.push({"model.safetensors": weights(1)})
    inspect_all()
    assert olive.ask("POST", f"{api}/tag/main", {"tag": "gold"}).status_code == 201
    assert olive.ask("POST", f"{api}/branch/feat%2Fx", {"startingPoint": "v1"}).status_code == 201
    assert "already" in message(olive.ask("POST", f"{api}/tag/main", {"tag": "gold"}), 409)
    assert "usable name" in message(olive.ask("POST", f"{api}/tag/main", {"tag": "v7"}), 400)
    assert "only its owner" in message(sten.ask("POST", f"{api}/branch/mine"), 403)
    second = olive.push({"model.safetensors": weights(2)})
    inspect_all()
    assert sten.ask("GET", f"{api}/revision/gold").json()["sha"] == first
    assert sten.ask("GET", f"{api}/revision/main").json()["sha"] == second
    answer = olive.ask("POST", f"{api}/commit/feat%2Fx", b"")
    assert "Only `main` takes pushes" in message(answer, 400)
    assert olive.ask("DELETE", f"{api}/tag/gold").status_code == 200
    assert olive.ask("DELETE", f"{api}/tag/gold").status_code == 404
    assert "stays" in message(olive.ask("DELETE", f"{api}/branch/main"), 403)


def test_the_address_of_a_commit_leads_to_its_page(olive: Hub, owner_client: Client) -> None:
    commit = olive.push({"README.md": CARD})
    page = owner_client.get(f"/olive/poems/commit/{commit}")
    assert page.headers["Location"] == f"/drafts/{version_of(commit).pk}"
    text = owner_client.get(page.headers["Location"]).content.decode()
    assert "model.safetensors" in text
    commit = olive.push({"model.safetensors": weights(1)})
    inspect_all()
    page = Client().get(f"/olive/poems/commit/{commit}")
    assert page.headers["Location"] == "/olive/poems?version=v1"
    page = Client().get("/olive/poems/tree/main/.")  # as older clients print it
    assert page.headers["Location"] == "/olive/poems"


def test_blobs_of_a_dropped_push_go(olive: Hub, owner: User) -> None:
    olive.push({"README.md": CARD, "notes.json": '{"a": 1}'})
    olive.push({"notes.json": '{"a": 2}'})
    stray = hashlib.sha256(b'{"a": 1}').hexdigest()
    for version in Version.objects.order_by("pk")[:1]:
        uploads.discard(version)
    assert storage().size(stray) is None
    assert storage().size(hashlib.sha256(b'{"a": 2}').hexdigest()) == 8
