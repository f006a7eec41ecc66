"""Recipes by name: one recipe in every notation, and addresses that spell one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from django.contrib.auth.models import User
from django.test import Client
from safetensors.torch import save_file

from marketplace.accounts.tokens import make_token
from marketplace.hub import equipped
from merging.card import recipe_yaml
from merging.models import EquippedModel
from merging.spelling import id_of, revision_of
from tests.engine.models import foundation as make_state
from tests.engine.models import tuned
from vectors.importing import add_foundation, add_vector
from vectors.models import Access, Vector, Visibility

pytestmark = pytest.mark.django_db(transaction=True)

CARD = "---\nbase_model: lab/tiny\nlicense: mit\narmory: {summary: x}\n---\n# X\n"


@pytest.fixture
def shop(owner: User, buyer: User, tmp_path: Path) -> None:
    """lab/tiny with olive/law, olive/chat, olive/7_days and bruno/chat."""
    state = make_state(torch.float32)

    def folder(name: str, content: dict[str, torch.Tensor]) -> Path:
        (tmp_path / name).mkdir(parents=True)
        save_file(content, tmp_path / name / "model.safetensors")
        (tmp_path / name / "README.md").write_text(CARD)
        (tmp_path / name / "config.json").write_text("{}")
        return tmp_path / name

    tiny = add_foundation(folder("tiny", state), repo_id="lab/tiny")
    for seed, (user, name) in enumerate(
        [(owner, "law"), (owner, "chat"), (owner, "7_days"), (buyer, "chat")], start=1
    ):
        repo_id = f"{user.get_username()}/{name}"
        add_vector(
            folder(repo_id, tuned(state, seed)), repo_id=repo_id, foundation=tiny, owner=user
        )


def post(client: Client, body: dict[str, Any], **headers: str) -> Any:
    return client.post("/api/recipes", json.dumps(body), "application/json", headers=headers)


def info(client: Client, path: str) -> Any:
    return client.get(f"/api/models/{path}")


@pytest.mark.parametrize(
    "line",
    [
        "law + 0.5*olive/chat - 7_days",
        "ties(law[density=0.3] + 0.5*olive/chat, density=0.2)",
        "law + ties(bruno/chat), on=law",
        "linear(law + 3*olive/chat)",
        'law + olive/chat, out_dtype=bfloat16, rule="skip *embed* of olive/chat"',
    ],
)
def test_one_recipe_in_every_notation(shop: None, client: Client, line: str) -> None:
    first = post(client, {"expression": line, "on": "lab/tiny"})
    assert first.status_code == 201, first.content
    row = EquippedModel.objects.get()
    assert first.json()["repo_id"] == row.repo_id
    assert first.json()["report"]["cases"]["merged"]
    named = json.loads(row.canonical)
    names = {row.foundation.fingerprint: "lab/tiny"}
    names |= {term.version.digest: str(term.version.vector) for term in row.terms.all()}
    text = row.canonical
    for digest, name in names.items():
        text = text.replace(digest, name)
    for body in (
        {"expression": line, "on": "tiny"},
        {"recipe": named},
        {"recipe": row.canonical},
        {"recipe": json.loads(text)},
        {"yaml": recipe_yaml(row)},
    ):
        again = post(client, body)
        assert (again.status_code, again.json().get("sha")) == (200, first.json()["sha"]), body
    assert EquippedModel.objects.count() == 1


def test_mergekits_files_name_adapters_base_and_type(shop: None, client: Client) -> None:
    wanted = post(client, {"expression": "law + 0.5*olive/chat"}).json()["sha"]
    models = "models: [{model: law}, {model: olive/chat, parameters: {weight: 0.5}}]\n"
    head = "merge_method: task_arithmetic\nbase_model: lab/tiny\ndtype: float32\n"
    head += "parameters: {weight: 1}\n"
    same = post(client, {"yaml": head + models}).json()
    assert same.get("sha") == wanted, same
    for text, said in (
        (head.replace("lab/tiny", "olive/law") + models, "`base` names olive/law"),
        (head + "tokenizer_source: union\n" + models, "`tokenizer_source` cannot be equipped"),
        (head + models.replace("model: law", "model: lab/tiny+law"), "law is not a LoRA"),
    ):
        answer = post(client, {"yaml": text})
        assert (answer.status_code, said in answer.json()["error"]) == (400, True), answer.content
    assert EquippedModel.objects.count() == 1


def test_what_cannot_be_is_said_with_its_place(shop: None, client: Client) -> None:
    answer = post(client, {"expression": "law + 0.5*nobody + olive/chat"})
    assert answer.status_code == 400
    assert answer.json()["error"] == "There is no vector called `nobody` here."
    assert answer.json()["place"] == "law + 0.5*▸nobody + olive/chat"
    assert "`chat` can be" in post(client, {"expression": "chat"}).json()["error"]
    for body in (
        {},
        {"expression": "law", "yaml": "x"},
        {"yaml": 3},
        {"expression": "law", "on": 3},
    ):
        assert post(client, body).status_code == 400, body
    assert client.get("/api/recipes").status_code == 405
    assert not EquippedModel.objects.exists()


def test_a_session_writes_nothing_and_a_token_equips_what_is_private(
    shop: None, owner: User, owner_client: Client, client: Client
) -> None:
    Vector.objects.filter(name="law").update(visibility=Visibility.PRIVATE)
    assert post(owner_client, {"expression": "olive/law"}).status_code == 400
    text, _row = make_token(user=owner, name="laptop")
    bearer = {"Authorization": f"Bearer {text}"}
    answer = post(client, {"expression": "olive/law"}, **bearer).json()
    assert info(client, answer["repo_id"]).status_code == 401
    assert (
        client.get(f"/api/models/{answer['repo_id']}", headers=bearer).json()["sha"]
        == answer["sha"]
    )


@pytest.mark.parametrize(
    ("line", "spelled", "revision"),
    [
        ("law + 0.5*7_days", "equip/tiny_plus_law_plus_0.5_7_days", "+olive/law+0.5(olive/7_days)"),
        ("7_days", "equip/tiny_plus_1_7_days", "+olive/7_days"),
        (
            "law - olive/chat",
            "equip/tiny_plus_law_minus_olive.chat",
            "+olive/law - olive/chat",
        ),
        ("law, on=bruno/chat", "equip/bruno.chat_plus_law", "+olive/law"),
        ("lab/tiny + ties(law)", "", "+ties(olive/law)"),
        (
            "tiny + ties(2*law[density=0.3] + 3*7_days, density=0.5)",
            "",
            "+ties(2*olive/law[density=0.3]+3(olive/7_days), density=0.5)",
        ),
        ("linear(law)", "", "+linear(olive/law)"),
    ],
)
def test_both_spellings_give_the_recipes_own_commit(
    shop: None, client: Client, line: str, spelled: str, revision: str
) -> None:
    answer = post(client, {"expression": line, "on": "" if "on=" in line else "tiny"}).json()
    row = EquippedModel.objects.get()
    assert (id_of(row), revision_of(row)) == (spelled, revision)
    on = str(row.target.vector) if row.target and row.target.vector else "lab/tiny"
    by_revision = client.get(f"/api/models/{on}/revision/{revision.replace('+', '%2B')}")
    assert (by_revision.json()["sha"], by_revision.json()["id"]) == (answer["sha"], on)
    at_commit = f"/{on}/resolve/{answer['sha']}/model.safetensors"
    assert client.head(at_commit)["X-Repo-Commit"] == answer["sha"]
    assert client.get(f"/api/models/{on}/commits/{answer['sha']}").json()[0]["id"] == answer["sha"]
    if spelled:
        found = info(client, spelled).json()
        assert (found["sha"], found["id"]) == (answer["sha"], spelled)
        assert client.get(f"/{spelled}")["Location"] == row.get_absolute_url()
    assert EquippedModel.objects.count() == 1


@pytest.mark.parametrize(
    ("path", "code", "said"),
    [
        ("equip/tiny", "RepoNotFound", "equip/MODEL_plus_VECTOR"),
        ("equip/tiny_plus_nobody", "RepoNotFound", "no vector called `nobody`"),
        ("equip/tiny_plus_Law", "RepoNotFound", "no vector called `Law`"),
        ("equip/tiny_plus_chat", "RepoNotFound", "Write the owner too: olive.chat"),
        ("equip/tiny_plus_law_v7", "RepoNotFound", "no vector called `law_v7`"),
        ("equip/tiny_plus_200_law", "RepoNotFound", "200"),
        ("equip/nobody_plus_law", "RepoNotFound", "called `nobody`"),
        ("lab/tiny/revision/%2Bnobody", "RevisionNotFound", "no vector called `nobody`"),
        ("lab/tiny/revision/%2Blaw%2B", "RevisionNotFound", "Expected the name"),
        ("lab/tiny/revision/%2Blaw,on=bruno%2Fchat", "RevisionNotFound", "has no revision"),
        ("lab/tiny/revision/nobody", "RevisionNotFound", "has no revision"),
    ],
)
def test_a_wrong_name_is_no_repository_and_leaves_no_row(
    shop: None, client: Client, path: str, code: str, said: str
) -> None:
    answer = info(client, path)
    assert answer.status_code == (401 if code == "RepoNotFound" else 404)
    if path.startswith("equip/"):
        assert client.get(f"/{path}").status_code == 404
    assert (answer["X-Error-Code"], said in answer["X-Error-Message"]) == (code, True), (
        answer.content
    )
    assert EquippedModel.objects.count() == ("on=" in path)


def test_what_is_not_granted_is_gated(shop: None, client: Client, owner_client: Client) -> None:
    wanted = info(client, "lab/tiny/revision/%2Blaw").json()["sha"]
    Vector.objects.filter(name="law").update(access=Access.MANUAL)
    for path in ("equip/tiny_plus_law", "lab/tiny/revision/%2Blaw"):
        answer = info(client, path)
        assert (answer.status_code, answer["X-Error-Code"]) == (401, "GatedRepo")
        assert "/olive/law" in answer["X-Error-Message"]
    for name, token in (("law", True), ("chat", False)):
        page = owner_client.get(f"/olive/{name}").content.decode()
        assert "export HF_ENDPOINT=" in page
        assert ("export HF_TOKEN=" in page) == token
    weights = client.get(f"/lab/tiny/resolve/{wanted}/model.safetensors")
    assert (weights.status_code, weights["X-Error-Code"]) == (401, "GatedRepo")


def test_a_download_to_the_last_byte_is_an_equip(
    shop: None, client: Client, owner_client: Client
) -> None:
    repo_id = post(client, {"expression": "law"}).json()["repo_id"]
    path = f"/{repo_id}/resolve/main/model.safetensors"

    def equips() -> int:
        return EquippedModel.objects.values_list("equips", flat=True).get()

    b"".join(client.get(path, headers={"Range": "bytes=0-99"}).streaming_content)  # type: ignore[attr-defined]
    assert equips() == 0
    for each in (client, client, owner_client, owner_client):
        b"".join(each.get(path).streaming_content)  # type: ignore[attr-defined]
    assert (equips(), Vector.objects.get(name="law").equips) == (2, 2)


def test_a_recipe_on_an_older_version_says_so(
    shop: None, owner: User, client: Client, tmp_path: Path
) -> None:
    first = post(client, {"expression": "7_days, on=olive/law"}).json()
    (tmp_path / "next").mkdir()
    save_file(tuned(make_state(torch.float32), 9), tmp_path / "next/model.safetensors")
    law = Vector.objects.get(name="law")
    add_vector(tmp_path / "next", repo_id="olive/law", foundation=law.foundation, owner=owner)
    row = EquippedModel.objects.get()
    assert (id_of(row), revision_of(row)) == ("equip/law_v1_plus_1_7_days", "v1+olive/7_days")
    for path in ("olive/law/revision/v1%2Bolive%2F7_days", "equip/law_v1_plus_1_7_days"):
        assert info(client, path).json()["sha"] == first["sha"]
    newer = info(client, "olive/law/revision/%2Bolive%2F7_days").json()["sha"]
    assert newer != first["sha"]


def test_a_commit_never_changes(
    shop: None, owner: User, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """New versions, names and licences of the parts, and hashes found later, leave it as it is."""
    answer = post(client, {"expression": "law"}).json()
    path = f"/{answer['repo_id']}/resolve/{answer['sha']}"
    card = b"".join(client.get(f"{path}/README.md").streaming_content)  # type: ignore[attr-defined]
    b"".join(client.get(f"{path}/model.safetensors").streaming_content)  # type: ignore[attr-defined]
    Vector.objects.filter(name="law").update(license="gpl-3.0", name="lex")
    equipped._listings.clear()
    assert info(client, answer["repo_id"]).json()["sha"] == answer["sha"]
    again = b"".join(client.get(f"{path}/README.md").streaming_content)  # type: ignore[attr-defined]
    assert again == card
    assert b"olive/law: mit" in card
    monkeypatch.setattr(equipped, "Opened", None)  # listed without opening anything
    tree = client.get(f"/api/models/{answer['repo_id']}/tree/{answer['sha']}").json()
    (weights,) = [each for each in tree if each["path"] == "model.safetensors"]
    assert len(weights["lfs"]["oid"]) == 64  # somebody has read all of it
    assert info(client, answer["repo_id"]).json()["safetensors"]["total"]
