"""What scripts and download tools see: ranges, validators, zips, the list of models, refusals."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from pathlib import Path

import pytest
from safetensors.torch import load

from tests.e2e import models
from tests.e2e.conftest import WITHDRAWN
from tests.e2e.site import Site
from tests.e2e.visitor import Answer, Visitor, folder_files

pytestmark = pytest.mark.slow

WEIGHTS = "resolve/main/model.safetensors"


@pytest.fixture
def anyone(site: Site) -> Visitor:
    return Visitor(site)


@pytest.fixture
def recipe(anyone: Visitor) -> str:
    """The page of a recipe that is really computed: two vectors, one of them subtracted."""
    return anyone.equip(("olive/mood", "0.75"), ("nora/french", "-0.5"))


@pytest.fixture
def whole(anyone: Visitor, recipe: str) -> Answer:
    answer = anyone.get(f"{recipe}/{WEIGHTS}")
    assert answer.status == 200
    assert int(answer.headers["Content-Length"]) == len(answer.body)
    return answer


def test_ranges_are_slices_of_the_whole(anyone: Visitor, recipe: str, whole: Answer) -> None:
    size = len(whole.body)
    middle = size // 2
    for asked, start, stop in [
        ("bytes=0-0", 0, 1),
        ("bytes=0-7", 0, 8),
        ("bytes=5-4095", 5, 4096),
        (f"bytes={middle}-{middle + 10_000}", middle, middle + 10_001),
        (f"bytes={size - 3}-", size - 3, size),
        (f"bytes={size - 3}-{size + 99}", size - 3, size),
        ("bytes=-1000", size - 1000, size),
        (f"bytes=-{size * 2}", 0, size),
    ]:
        answer = anyone.get(f"{recipe}/{WEIGHTS}", Range=asked)
        assert answer.status == 206, asked
        assert answer.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{size}"
        assert answer.headers["Content-Length"] == str(stop - start)
        assert answer.body == whole.body[start:stop], asked


def test_a_range_behind_the_end_is_refused(anyone: Visitor, recipe: str, whole: Answer) -> None:
    size = len(whole.body)
    for asked in (f"bytes={size}-", f"bytes={size}-{size + 5}", "bytes=-0"):
        answer = anyone.get(f"{recipe}/{WEIGHTS}", Range=asked)
        assert (answer.status, answer.body) == (416, b""), asked
        assert answer.headers["Content-Range"] == f"bytes */{size}"


def test_validators(anyone: Visitor, recipe: str, whole: Answer) -> None:
    path, etag = f"{recipe}/{WEIGHTS}", whole.headers["ETag"]
    assert anyone.get(path, Range="bytes=0-9", If_Range=etag).body == whole.body[:10]
    other = anyone.get(path, Range="bytes=0-9", If_Range='"something else"')
    assert (other.status, other.body) == (200, whole.body)
    assert anyone.get(path, If_None_Match=etag).status == 304
    head = anyone.ask("HEAD", path)
    assert (head.status, head.body, head.headers["ETag"]) == (200, b"", etag)
    assert head.headers["Content-Length"] == str(len(whole.body))
    assert head.headers["Accept-Ranges"] == "bytes"


def test_equal_recipes_are_one_and_others_differ(
    anyone: Visitor, recipe: str, whole: Answer
) -> None:
    again = Visitor(anyone.site, "sten").equip(("olive/mood@v1", "+.75"), ("French", "-0.50"))
    assert anyone.get(f"{again}/{WEIGHTS}").headers["ETag"] == whole.headers["ETag"]
    other = anyone.equip(("olive/mood", "0.75"), ("nora/french", "-0.25"))
    answer = anyone.get(f"{other}/{WEIGHTS}")
    assert answer.headers["ETag"] != whole.headers["ETag"]
    assert answer.body != whole.body


def test_the_zip_is_the_repository(anyone: Visitor, recipe: str, whole: Answer) -> None:
    answer = anyone.get(f"{recipe}.zip")
    assert answer.status == 200
    assert int(answer.headers["Content-Length"]) == len(answer.body)
    head = anyone.ask("HEAD", f"{recipe}.zip")
    assert head.headers["Content-Length"] == str(len(answer.body))
    with zipfile.ZipFile(io.BytesIO(answer.body)) as archive:
        assert archive.testzip() is None
        (folder,) = {name.split("/")[0] for name in archive.namelist()}
        assert archive.read(f"{folder}/model.safetensors") == whole.body
        for name in archive.namelist():
            path = name.removeprefix(f"{folder}/")
            assert archive.read(name) == anyone.get(f"{recipe}/resolve/main/{path}").body, path
        assert {"config.json", "tokenizer.json", "recipe.yaml", "README.md"} <= {
            name.removeprefix(f"{folder}/") for name in archive.namelist()
        }


def test_a_full_vector_alone_is_the_fine_tune_bit_for_bit(anyone: Visitor, folders: Path) -> None:
    page = anyone.equip(("olive/law", "1"))
    fine = load((folders / "olive/law/model.safetensors").read_bytes())
    got = load(anyone.get(f"{page}/{WEIGHTS}").body)
    assert got.keys() == fine.keys()
    assert all(value.equal(fine[name]) for name, value in got.items())


def test_stored_files_are_what_was_uploaded(anyone: Visitor, folders: Path) -> None:
    for repo in (models.FOUNDATION, "olive/mood", "olive/law", "nora/french"):
        for name, content in folder_files(folders / repo).items():
            answer = anyone.get(f"/{repo}/resolve/main/{name}")
            if name == "adapter_config.json":  # handed out with the foundation's id here
                assert json.loads(answer.body)["base_model_name_or_path"] == models.FOUNDATION
                content = answer.body
            assert answer.body == content, (repo, name)
            assert answer.headers["ETag"] == f'"{hashlib.sha256(content).hexdigest()}"'


def test_etags_and_bytes_outlive_a_restart(
    site: Site, anyone: Visitor, recipe: str, whole: Answer
) -> None:
    before = site.processes("uvicorn")
    site.restart()
    assert not before & site.processes("uvicorn")
    answer = anyone.get(f"{recipe}/{WEIGHTS}")
    assert answer.headers["ETag"] == whole.headers["ETag"]
    assert answer.body == whole.body
    page = Visitor(site).equip(("olive/mood", "0.75"), ("nora/french", "-0.5"))
    assert page == recipe


def ids(answer: Answer) -> set[str]:
    return {row["id"] for row in answer.json()}


def test_the_list_of_models(anyone: Visitor) -> None:
    answer = anyone.get("/api/models")
    assert answer.headers["Content-Type"] == "application/json"
    rows = {row["id"]: row for row in answer.json()}
    assert {models.FOUNDATION, "olive/mood", "olive/law", "nora/french"} <= rows.keys()
    assert WITHDRAWN not in rows
    mood = rows["olive/mood"]
    assert mood["modelId"] == "olive/mood"
    assert mood["author"] == "olive"
    assert mood["pipeline_tag"] == "feature-extraction"
    assert (mood["private"], mood["gated"], mood["disabled"]) == (False, False, False)
    assert mood["library_name"] == "peft"
    assert len(mood["sha"]) == 40
    for key in ("downloads", "likes"):
        assert isinstance(mood[key], int)
    base = models.FOUNDATION
    for tag in ("safetensors", "license:mit", "en", "tiny", "form:lora", f"base_model:{base}"):
        assert tag in mood["tags"]
    assert f"base_model:adapter:{base}" in mood["tags"]
    assert f"base_model:finetune:{base}" in rows["olive/law"]["tags"]


def test_the_list_of_models_narrowed(anyone: Visitor) -> None:
    base = models.FOUNDATION
    assert ids(anyone.get("/api/models?author=nora")) == {"nora/french"}
    assert ids(anyone.get("/api/models?search=mood")) == {"olive/mood"}
    assert ids(anyone.get("/api/models?search=nothing-of-that-name")) == set()
    assert ids(anyone.get("/api/models?filter=form:delta")) == {"nora/french"}
    assert ids(anyone.get(f"/api/models?filter=base_model:adapter:{base}")) == {"olive/mood"}
    on_base = ids(anyone.get(f"/api/models?filter=base_model:{base}"))
    assert {"olive/mood", "olive/law", "nora/french"} <= on_base
    assert base not in on_base
    assert ids(anyone.get("/api/models?pipeline_tag=translation")) == set()
    assert len(anyone.get("/api/models?limit=2").json()) == 2


def test_strangers_see_no_draft(site: Site, anyone: Visitor, folders: Path) -> None:
    owner, stranger = Visitor(site, "olive"), Visitor(site, "sten")
    draft = owner.upload(folder_files(folders / "olive/mood"))
    upload = f"/uploads{draft}"
    assert owner.get(draft).status == 200
    assert stranger.get(draft).status == 404
    assert stranger.get(f"{draft}/progress").status == 404
    for action in ("inspect", "publish", "preview", "discard"):
        assert stranger.post(f"{draft}/{action}").status == 404, action
    assert stranger.get(upload).status == 404
    assert stranger.ask("DELETE", upload, X_CSRFToken=stranger.token()).status == 404
    assert anyone.get(draft).goes_to == "/accounts/login/"
    assert owner.post(f"{draft}/discard", form=draft).status == 302
    assert owner.get(draft).status == 404


def test_strangers_see_no_withdrawn_version(site: Site, anyone: Visitor) -> None:
    owner, stranger = Visitor(site, "olive"), Visitor(site, "sten")
    assert owner.get(f"/{WITHDRAWN}").status == 200
    recipe = owner.equip((WITHDRAWN, "0.5"))
    assert owner.get(f"{recipe}/{WEIGHTS}").status == 200
    for other in (stranger, anyone):
        for path in (
            f"/{WITHDRAWN}",
            f"/{WITHDRAWN}/{WEIGHTS}",
            f"/{WITHDRAWN}/resolve/v1/model.safetensors",
            recipe,
            f"{recipe}.zip",
            f"{recipe}/{WEIGHTS}",
        ):
            # Clients of the hub protocol are told to sign in, whether there is anything or not.
            refused = 401 if other is anyone and "/resolve/" in path else 404
            assert other.get(path).status == refused, path
        answer = other.post("/equip", vector=WITHDRAWN, coefficient="1")
        assert answer.goes_to == "/"
        assert f"There is no vector called <code>{WITHDRAWN}</code> here." in other.get("/").text
        assert WITHDRAWN not in other.get("/vectors?q=old").text


@pytest.mark.parametrize(
    "path",
    [
        "/drafts/1/inspect",
        "/drafts/1/publish",
        "/drafts/1/discard",
        "/olive/mood/like",
        "/olive/mood/cover",
        "/olive/mood/shelf",
        "/uploads/form",
    ],
)
def test_who_is_not_signed_in_is_asked_to(anyone: Visitor, path: str) -> None:
    answer = anyone.post(path)
    assert answer.goes_to == "/accounts/login/"
    assert anyone.ask("POST", path).status == 403  # no token


def test_only_the_owner_changes_a_vector(site: Site) -> None:
    stranger = Visitor(site, "sten")
    for path in ("/olive/mood/shelf", "/olive/mood/cover"):
        answer = stranger.post(path, number="1", action="withdraw", remove="1")
        assert answer.status == 404
    assert Visitor(site).get("/olive/mood").status == 200
