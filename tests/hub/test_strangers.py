"""Who gets what: each route of the protocol × each person × each kind of repository.

What is refused says nothing of what is there: a private repository is as absent for a stranger as
one that never was.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import torch
from django.contrib.auth.models import AnonymousUser, User
from django.test import Client

from marketplace.accounts.tokens import make_token, revoke
from marketplace.models import Scope
from merging.services import equip_terms
from tests.engine.models import foundation as make_state
from tests.engine.models import tuned
from tests.people import person
from tests.vectors.test_shop import folder_with
from vectors.importing import add_foundation, add_vector
from vectors.models import Access, Grant, Vector, Visibility

PEOPLE = ("anonymous", "stranger", "buyer", "owner", "wrong scope", "revoked")
KINDS = ("public", "private", "gated", "paid")
SETTING = {
    "public": (Visibility.PUBLIC, Access.OPEN),
    "private": (Visibility.PRIVATE, Access.OPEN),
    "gated": (Visibility.PUBLIC, Access.MANUAL),
    "paid": (Visibility.PUBLIC, Access.PAID),
}
CARD = "IyBBCg=="  # "# A" and a line feed
COMMIT = "\n".join(
    json.dumps(line)
    for line in (
        {"key": "header", "value": {"summary": "A card"}},
        {
            "key": "file",
            "value": {"path": "README.md", "content": "IyBBCg==", "encoding": "base64"},
        },
    )
)
LFS = {"operation": "upload", "transfers": ["basic"], "objects": [{"oid": "0" * 64, "size": 4}]}


@dataclass(frozen=True)
class Route:
    """``what`` it is: telling of the repository, its bytes, writing to it, or its owner's own."""

    what: str
    method: str
    path: str
    body: Any = None
    kind: str = "application/json"


ROUTES = (
    Route("tell", "GET", "/api/models/{id}"),
    Route("tell", "GET", "/api/models/{id}/revision/main"),
    Route("tell", "GET", "/api/models/{id}/tree/main?recursive=true"),
    Route("tell", "POST", "/api/models/{id}/paths-info/main", {"paths": ["README.md"]}),
    Route("tell", "GET", "/api/models/{id}/refs"),
    Route("tell", "GET", "/api/models/{id}/commits/main"),
    Route("tell", "GET", "/api/models/{id}/likers"),
    Route("tell", "GET", "/api/models/{id}/discussions"),
    Route("read", "GET", "/api/models/{id}/auth-check"),
    Route("read", "GET", "/api/models/{id}/safetensors-metadata/model.safetensors"),
    Route("read", "GET", "/{id}/resolve/main/model.safetensors"),
    Route("read", "HEAD", "/{id}/resolve/main/README.md"),
    Route("read", "GET", "/{id}/resolve/v1/config.json"),
    Route("write", "GET", "/api/models/{id}/auth-check/write"),
    Route("write", "POST", "/api/models/{id}/preupload/main", {"files": []}),
    Route("write", "POST", "/api/models/{id}/commit/main", COMMIT, "application/x-ndjson"),
    Route("write", "GET", "/api/models/{id}/xet-write-token/main"),
    Route("write", "POST", "/{id}.git/info/lfs/objects/batch", LFS),
    Route("write", "POST", "/api/models/{id}/tag/main", {"tag": "good"}),
    Route("write", "POST", "/api/models/{id}/branch/side", {}),
    Route("write", "PUT", "/api/models/{id}/settings", {"gated": False}),
    Route("write", "GET", "/api/models/{id}/user-access-request/pending"),
)


def expected(what: str, who: str, kind: str) -> int:
    """The status, by rule."""
    if who == "revoked":
        return 401
    knows = kind != "private" or who in ("buyer", "owner", "wrong scope")
    if what == "write":
        if who == "anonymous":
            return 401
        if who == "wrong scope":
            return 403
        return 200 if who == "owner" else 403 if knows else 404
    if not knows:
        return 401 if who == "anonymous" else 404
    may_read = kind in ("public", "private") or who in ("buyer", "owner", "wrong scope")
    if what == "read" and not may_read:
        return 401 if who == "anonymous" else 403
    return 200


@pytest.fixture
def tokens(owner: User, buyer: User, stranger: User) -> dict[str, str]:
    """A token for each of the people; the owner has one that may only read as well."""
    gone, row = make_token(user=owner, name="gone", scope=Scope.WRITE)
    revoke(row)
    return {
        "anonymous": "",
        "stranger": make_token(user=stranger, name="t", scope=Scope.WRITE)[0],
        "buyer": make_token(user=buyer, name="t", scope=Scope.WRITE)[0],
        "owner": make_token(user=owner, name="t", scope=Scope.WRITE)[0],
        "wrong scope": make_token(user=owner, name="r", scope=Scope.READ)[0],
        "revoked": gone,
    }


@pytest.fixture
def law(owner: User, buyer: User, tmp_path: Path) -> Vector:
    """A full vector of olive's, for which bruno has a grant."""
    state = make_state(torch.float32)
    tiny = add_foundation(
        folder_with(tmp_path / "tiny", state), repo_id="lab/tiny", card="---\nlicense: mit\n---\n"
    )
    folder = folder_with(tmp_path / "law", tuned(state, 1))
    (folder / "config.json").write_text('{"model_type": "tiny"}')
    vector = add_vector(folder, repo_id="olive/law", foundation=tiny, owner=owner).vector
    assert vector is not None
    Grant.objects.create(user=buyer, vector=vector)
    return vector


def put(vector: Vector, kind: str) -> None:
    vector.visibility, vector.access = SETTING[kind]
    vector.save()


def ask(client: Client, route: Route, repo_id: str, token: str) -> Any:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    body = route.body if isinstance(route.body, str) else json.dumps(route.body or {})
    data = b"" if route.method in ("GET", "HEAD") else body
    answer = client.generic(
        route.method, route.path.format(id=repo_id), data, route.kind, headers=headers
    )
    if getattr(answer, "streaming", False):
        list(answer.streaming_content)
    return answer


CASES = [pytest.param(kind, who, id=f"{kind}-{who}") for kind in KINDS for who in PEOPLE]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(("kind", "who"), CASES)
def test_each_route_of_a_vector(
    law: Vector, tokens: dict[str, str], client: Client, kind: str, who: str
) -> None:
    for route in ROUTES:
        put(law, kind)
        answer = ask(client, route, "olive/law", tokens[who])
        wanted = expected(route.what, who, kind)
        if wanted == 200 and "access-request" in route.path and kind == "public":
            wanted = 400  # open to all who see it: there is nobody to let in
        got = 200 if answer.status_code == 201 else answer.status_code
        assert got == wanted, f"{route.method} {route.path}: {answer.content[:300]!r}"
        if wanted == 403 and route.what == "read":
            assert answer.headers["X-Error-Code"] == "GatedRepo"
            assert "/olive/law" in answer.headers["X-Error-Message"]
        if wanted == 404 or (wanted == 401 and who == "anonymous" and route.what == "tell"):
            missing = ask(client, route, "olive/nothing", tokens[who])
            assert missing.status_code == answer.status_code
            assert missing.headers["X-Error-Code"] == answer.headers["X-Error-Code"]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(("kind", "who"), CASES)
def test_each_route_of_an_equipped_model(
    law: Vector, owner: User, tokens: dict[str, str], client: Client, kind: str, who: str
) -> None:
    """A recipe is seen by who sees its parts and read by who may read them; nobody writes it."""
    version = law.current
    assert version is not None
    row = equip_terms([(version, Decimal("0.5"))], user=owner)
    put(law, kind)
    for route in ROUTES:
        if "v1" in route.path or route.path.endswith("likers"):
            continue
        answer = ask(client, route, row.repo_id, tokens[who])
        wanted = expected(route.what, who, kind)
        wanted = 403 if route.what == "write" and wanted == 200 else wanted
        assert answer.status_code == wanted, f"{route.path}: {answer.content[:300]!r}"


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("kind", KINDS)
def test_lists_name_what_everybody_may_see(
    law: Vector, tokens: dict[str, str], client: Client, kind: str
) -> None:
    put(law, kind)
    for who in PEOPLE[:-1]:
        answer = ask(client, Route("tell", "GET", "/api/models"), "", tokens[who])
        listed = {row["id"] for row in answer.json()}
        assert ("olive/law" in listed) == (expected("tell", who, kind) == 200), who


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("kind", KINDS)
def test_recipes_need_a_grant_for_each_part(
    law: Vector, tokens: dict[str, str], client: Client, kind: str
) -> None:
    put(law, kind)
    body = {"on": "lab/tiny", "expression": "0.5*olive/law"}
    for who in PEOPLE[:-1]:
        answer = ask(client, Route("read", "POST", "/api/recipes", body), "", tokens[who])
        allowed = expected("read", who, kind) == 200
        assert (answer.status_code in (200, 201)) == allowed, (who, answer.content[:300])


@pytest.mark.django_db(transaction=True)
def test_a_session_never_writes_through_the_protocol(law: Vector, owner: User) -> None:
    """Else any page of the web could make its visitor's browser push."""
    client = Client()
    client.force_login(owner, backend="django.contrib.auth.backends.ModelBackend")
    for route in ROUTES:
        if route.what == "write" and route.method != "GET":
            assert ask(client, route, "olive/law", "").status_code == 401, route.path


@pytest.mark.django_db
def test_nobody_is_anonymous_by_an_empty_token(client: Client) -> None:
    person("olive")
    for shown in ("Bearer", "Bearer ", "Basic b2xpdmU6", "Bearer null"):
        answer = client.get("/api/models", headers={"Authorization": shown})
        assert answer.status_code == 401, shown
    assert isinstance(client.get("/api/models").wsgi_request.user, AnonymousUser)
