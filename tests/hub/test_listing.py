"""The listing, what is told of a repository, likes, and the limits of the hub protocol."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from marketplace.accounts.tokens import make_token
from tests.clients.client import NEWEST, OLD
from tests.clients.client import Client as HubClient
from tests.hub.stock import aged, foundation, vector
from vectors.models import Access, Foundation, Grant, Vector, Visibility

pytestmark = pytest.mark.django_db(transaction=True)

LAW = """---
base_model: lab/tiny
license: mit
language: [en, zh]
pipeline_tag: text-classification
library_name: sentence-transformers
datasets:
- lex/statutes
- "statutes of the land"
- glue
tags: [law, 法律]
armory: {title: 法律推理, since: 2026-01-02}
---
# Law
"""
MOOD = "---\nlicense: apache-2.0\npipeline_tag: fill-mask\ndatasets: [imdb, glue]\n---\n# Mood\n"


@pytest.fixture
def tiny(db: None) -> Foundation:
    return foundation("lab/tiny", "---\nlicense: mit\n---\n# Tiny\n", parameters=20 * 10**6)


@pytest.fixture
def shelf(tiny: Foundation, owner: User, buyer: User) -> dict[str, Vector]:
    """olive/law (full), olive/mood (LoRA), olive/secret (private), bruno/paid (gated, of big)."""
    big = foundation("lab/big")
    rows = [
        vector("olive/law", owner, tiny, LAW, form="full"),
        vector("olive/mood", owner, tiny, MOOD),
        vector("olive/secret", owner, tiny, visibility=Visibility.PRIVATE),
        vector("bruno/paid", buyer, big, access=Access.PAID),
    ]
    return {row.repo_id: row for row in rows}


def ids(client: Client, query: str = "", **headers: str) -> list[str]:
    answer = client.get(f"/api/models?{query}", headers=headers)
    assert answer.status_code == 200, answer.content
    return [row["id"] for row in answer.json()]


EVERYTHING = {"lab/tiny", "lab/big", "olive/law", "olive/mood", "bruno/paid"}


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", EVERYTHING),
        ("search=mood", {"olive/mood"}),
        ("search=iny", {"lab/tiny"}),
        ("search=推理", {"olive/law"}),
        ("search=nothing-of-that-name", set()),
        ("author=OLIVE", {"olive/law", "olive/mood"}),
        ("filter=base_model:lab/tiny", {"olive/law", "olive/mood"}),
        ("filter=base_model:finetune:lab/tiny", {"olive/law"}),
        ("filter=base_model:adapter:lab/tiny", {"olive/mood"}),
        ("filter=base_model:adapter:lab/tiny&filter=glue", set()),
        ("filter=license:mit", {"olive/law", "lab/tiny"}),
        ("filter=license:mit&filter=task-vector", {"olive/law"}),
        ("filter=dataset:glue", {"olive/law", "olive/mood"}),
        ("filter=dataset:lex/statutes", {"olive/law"}),
        ("filter=dataset:statutes of the land", {"olive/law"}),
        ("filter=dataset:lex", set()),
        ("filter=dataset:statutes", set()),
        ("filter=law", {"olive/law"}),
        ("filter=法律", {"olive/law"}),
        ("filter=la", set()),
        ("filter=zh", {"olive/law"}),
        ("filter=text-classification", {"olive/law"}),
        ("filter=peft", {"olive/mood", "bruno/paid"}),
        ("filter=sentence-transformers", {"olive/law"}),
        ("filter=transformers", {"lab/tiny", "lab/big"}),
        ("filter=form:lora,license:apache-2.0", {"olive/mood"}),
        ("pipeline_tag=fill-mask", {"olive/mood"}),
        ("gated=true", {"bruno/paid"}),
        ("gated=False", EVERYTHING - {"bruno/paid"}),
        ("num_parameters=min:6B,max:128B", {"lab/big", "bruno/paid"}),
        ("num_parameters=max:20M", {"lab/tiny", "olive/law", "olive/mood"}),
        ("inference=warm", set()),
    ],
)
def test_it_is_narrowed(
    client: Client, shelf: dict[str, Vector], query: str, found: set[str]
) -> None:
    assert set(ids(client, query)) == found


def test_a_row_shows_every_tag_it_is_found_by(client: Client, shelf: dict[str, Vector]) -> None:
    for row in client.get("/api/models").json():
        for tag in row["tags"]:
            answer = client.get("/api/models", {"filter": tag})
            assert row["id"] in [each["id"] for each in answer.json()], tag


@pytest.mark.parametrize(
    "query", ["sort=beauty", "num_parameters=many", "cursor=zz", "cursor=WzEsMiwzXQ", "expand=x"]
)
def test_what_makes_no_sense_is_one_sentence(client: Client, query: str) -> None:
    answer = client.get(f"/api/models?{query}")
    assert answer.status_code == 400
    assert answer["X-Error-Message"].startswith(("`", "This `cursor`"))


def test_private_vectors_are_for_those_who_may_know(
    client: Client, shelf: dict[str, Vector], owner: User, buyer: User, stranger: User
) -> None:
    secret = shelf["olive/secret"]
    Grant.objects.create(user=buyer, vector=secret)
    for user, sees in ((owner, True), (buyer, True), (stranger, False)):
        text, _row = make_token(user=user, name="reads")
        listed = ids(client, "author=olive", Authorization=f"Bearer {text}")
        assert ("olive/secret" in listed) == sees, user
    assert client.get("/api/models", headers={"Authorization": "Bearer no"}).status_code == 401


def in_pages(client: Client, query: str, limit: int) -> list[str]:
    """Every id, page by page."""
    url, found = f"/api/models?limit={limit}&{query}", []
    while url:
        answer = client.get(url)
        rows = answer.json()
        assert len(rows) <= limit
        found += [row["id"] for row in rows]
        link = answer.get("Link", "")
        assert not link or link.startswith("<http://testserver/api/models?")
        url = link.partition(">")[0].removeprefix("<http://testserver")
    return found


@pytest.mark.parametrize("direction", ["", "&direction=1"])
@pytest.mark.parametrize(
    "sort", ["createdAt", "lastModified", "downloads", "likes", "trendingScore"]
)
def test_pages_hold_everything_once_and_in_order(
    client: Client, tiny: Foundation, owner: User, sort: str, direction: str
) -> None:
    rows: list[Any] = [tiny]
    for number in range(9):
        rows.append(
            vector(f"olive/v{number}", owner, tiny, likes=number // 3, downloads=number % 2)
        )
    rows.append(foundation("lab/other", downloads=1))
    for age, row in enumerate(rows):
        aged(row, age // 2)  # ties: two of each age
    whole = ids(client, f"sort={sort}{direction}")
    assert len(set(whole)) == 11
    assert in_pages(client, f"sort={sort}{direction}", 3) == whole
    assert in_pages(client, f"sort={sort}{direction}", 1) == whole
    if sort in ("downloads", "likes"):
        shown = [row[sort] for row in client.get(f"/api/models?sort={sort}{direction}").json()]
        assert shown == sorted(shown, reverse=not direction)


def test_what_is_published_between_two_pages_moves_nothing(
    client: Client, tiny: Foundation, owner: User
) -> None:
    for number in range(4):
        vector(f"olive/v{number}", owner, tiny)
    first = client.get("/api/models?limit=2")
    assert [row["id"] for row in first.json()] == ["olive/v3", "olive/v2"]
    vector("olive/newest", owner, tiny)
    after = first["Link"].partition(">")[0].removeprefix("<http://testserver")
    assert [row["id"] for row in client.get(after).json()] == ["olive/v1", "olive/v0"]


def test_the_list_costs_the_same_few_queries_whatever_it_holds(
    client: Client, tiny: Foundation, owner: User, django_assert_max_num_queries: Any
) -> None:
    for number in range(12):
        vector(f"olive/v{number}", owner, tiny)
    with django_assert_max_num_queries(3):
        client.get("/api/models")
    with django_assert_max_num_queries(6):
        client.get("/api/models?full=true&config=true&sort=trendingScore&filter=peft")


def test_only_what_is_asked_for_is_told(client: Client, shelf: dict[str, Vector]) -> None:
    query = "expand=downloads&expand=cardData&expand=siblings&expand=childrenModelCount"
    rows = {row["id"]: row for row in client.get(f"/api/models?{query}").json()}
    law = rows["olive/law"]
    assert set(law) == {"_id", "id", "downloads", "cardData", "siblings", "childrenModelCount"}
    assert law["cardData"]["armory"] == {"title": "法律推理", "since": "2026-01-02"}
    assert law["siblings"] == [{"rfilename": "model.safetensors"}]
    assert rows["lab/tiny"]["childrenModelCount"] == 2
    info = client.get("/api/models/olive/law?expand=gated,tags").json()
    assert set(info) == {"_id", "id", "gated", "tags"}


@pytest.mark.parametrize(
    "front",
    [
        "a: &a [*a, *a]",
        "\n".join([
            "a0: &a0 [x, x]",
            *(f"a{n}: &a{n} [" + ", ".join([f"*a{n - 1}"] * 20) + "]" for n in range(1, 12)),
        ]),
    ],
)  # fmt: skip
def test_a_card_without_end_is_told_as_none(
    client: Client, tiny: Foundation, owner: User, front: str
) -> None:
    vector("olive/endless", owner, tiny, f"---\nlicense: mit\n{front}\n---\n")
    assert client.get("/api/models/olive/endless").json()["cardData"] == {}
    [row] = client.get("/api/models?cardData=true&author=olive").json()
    assert row["cardData"] == {}
    assert "license:mit" in row["tags"]


CLIENT = """
import json
from huggingface_hub import HfApi
api = HfApi()
listed = {m.id: m for m in api.list_models(filter="base_model:lab/tiny", full=True, limit=1)}
every = [m.id for m in api.list_models(limit=100, expand=["downloads", "safetensors", "config"])]
paged = [m.id for m in api.list_models(sort="created_at")]
law = api.model_info("olive/law", files_metadata=True)
few = api.model_info("olive/law", expand=["baseModels"])
tags = api.get_model_tags()
print(json.dumps({
    "listed": len(listed), "every": sorted(every), "paged": sorted(paged),
    "law": [law.author, law.library_name, law.pipeline_tag, law.gated, law.private,
            law.card_data.license, law.siblings[0].lfs.size, law.created_at.year > 2000],
    "few": [getattr(few, "base_models", None) or few.baseModels, few.sha],
    "discussions": len(list(api.get_repo_discussions("olive/law"))),
    "collections": len(list(api.list_collections(owner="olive"))),
    "likers": [u.username for u in api.list_repo_likers("olive/law")],
    "likes": api.list_liked_repos("sten").models,
    "overview": [api.get_user_overview("olive").num_models,
                 api.get_organization_overview("lab").num_models],
    "licenses": sorted(each["id"] for each in tags["license"]),
}))
"""


@pytest.mark.parametrize(
    "version", [NEWEST, *(pytest.param(each, marks=pytest.mark.clients) for each in OLD)]
)
def test_the_clients_list_and_ask(
    shelf: dict[str, Vector], stranger: User, live_server: Any, tmp_path: Path, version: str
) -> None:
    text, _row = make_token(user=stranger, name="likes", scope="write")
    headers = {"Authorization": f"Bearer {text}"}
    for _again in range(2):
        assert Client().post("/api/models/olive/law/like", headers=headers).status_code == 200
    hub_client = HubClient(version, live_server.url, tmp_path / "home", token=text)
    told = hub_client.python(CLIENT)
    assert told["listed"] == 1
    assert set(told["every"]) == set(told["paged"]) == EVERYTHING
    assert told["law"] == [
        "olive", "sentence-transformers", "text-classification", False, False, "mit", 1000, True
    ]  # fmt: skip
    assert told["few"] == [["lab/tiny"], None]
    assert (told["discussions"], told["collections"]) == (0, 0)
    assert (told["likers"], told["likes"]) == (["sten"], ["olive/law"])
    assert told["overview"] == [2, 2]
    assert told["licenses"] == ["license:apache-2.0", "license:mit"]
    if version != NEWEST:  # which do not have the command
        return
    listed = hub_client.hf("models", "ls", "--filter", "base_model:lab/tiny", "--format", "json")
    assert listed.returncode == 0, listed.stderr
    assert '"olive/mood"' in listed.stdout.replace("'", '"')


def test_likes_need_a_token_that_writes_and_a_vector_one_may_see(
    shelf: dict[str, Vector], stranger: User, owner: User, owner_client: Client
) -> None:
    reads, _row = make_token(user=stranger, name="reads")
    writes, _row = make_token(user=stranger, name="writes", scope="write")
    path = "/api/models/olive/law/like"
    assert owner_client.post(path).status_code == 401  # a browser's session never writes here
    assert Client().post(path, headers={"Authorization": f"Bearer {reads}"}).status_code == 403
    mine = {"Authorization": f"Bearer {writes}"}
    secret = Client().post("/api/models/olive/secret/like", headers=mine)
    assert (secret.status_code, secret["X-Error-Code"]) == (404, "RepoNotFound")
    assert Client().post("/api/models/lab/tiny/like", headers=mine).status_code == 400
    assert Client().post(path, headers=mine).status_code == 200
    shelf["olive/law"].refresh_from_db()
    assert shelf["olive/law"].likes == 1
    Vector.objects.filter(pk=shelf["olive/law"].pk).update(visibility=Visibility.PRIVATE)
    assert Client().get("/api/users/sten/likes").json() == []
    assert Client().get("/api/users/nobody/likes").status_code == 404
    assert Client().get("/api/models/olive/law/likers").status_code == 401
    Vector.objects.filter(pk=shelf["olive/law"].pk).update(visibility=Visibility.PUBLIC)
    assert Client().delete(path, headers=mine).status_code == 200
    shelf["olive/law"].refresh_from_db()
    assert shelf["olive/law"].likes == 0


def test_every_answer_says_how_much_is_left(
    shelf: dict[str, Vector], client: Client, stranger: User, settings: Any
) -> None:
    settings.ARMORY_RATE_API, settings.ARMORY_RATE_SECONDS = 2, 3600
    first = client.get("/api/models/olive/law")
    assert first["RateLimit"].startswith('"api";r=1;t=')
    assert first["RateLimit-Policy"] == '"fixed window";"api";q=2;w=3600'
    missing = client.get("/api/models/olive/nothing")
    assert missing["RateLimit"].startswith('"api";r=0;t=')
    third = client.get("/api/models/olive/law", headers={"Authorization": "Bearer wrong"})
    assert third.status_code == 429
    assert third["RateLimit"].startswith('"api";r=0;t=')
    elsewhere = client.head("/olive/law/resolve/main/model.safetensors")
    assert elsewhere["RateLimit"].startswith('"resolvers";')
    text, _row = make_token(user=stranger, name="mine")
    own = client.get("/api/models/olive/law", headers={"Authorization": f"Bearer {text}"})
    assert own.status_code == 200
    assert client.get("/api/models/olive/law", REMOTE_ADDR="198.51.100.7").status_code == 200


def test_the_newest_client_waits_until_it_may_ask_again(
    shelf: dict[str, Vector], live_server: Any, tmp_path: Path, settings: Any
) -> None:
    settings.ARMORY_RATE_API, settings.ARMORY_RATE_SECONDS = 2, 2
    newest = HubClient(NEWEST, live_server.url, tmp_path / "home")
    done = newest.run(
        "from huggingface_hub import HfApi\n"
        "print([m.id for _again in range(4) for m in HfApi().list_models(search='law')])"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("olive/law") == 4
    assert "Rate limited. Waiting" in done.stderr
