"""A model kept ready, in a real browser: built by the running site, followed, stopped, downloaded;
without a script, on a phone, and as axe sees it."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from tests.e2e.conftest import opened, sign_in
from tests.e2e.site import Site, wait_for
from tests.e2e.visitor import Visitor

pytestmark = [pytest.mark.browser, pytest.mark.slow]

WEIGHTS = "resolve/main/model.safetensors"
SERIOUS = {"serious", "critical"}
RUNNING = """
from datetime import timedelta
from django.contrib.auth import get_user_model
from django.utils import timezone
from merging.models import Build, EquippedModel
Build.objects.create(
    equipped=EquippedModel.objects.get(slug={slug!r}), state="running", stage="writing",
    requested_by=get_user_model().objects.get(username="nora"), done_bytes=100_000,
    total_bytes=400_000, owner_token="held", lease_until=timezone.now() + timedelta(minutes=10),
)
"""
CHANGED = """
from django.utils import timezone
from merging.models import Build
Build.objects.filter(equipped__slug={slug!r}).update(finished=timezone.now(), {change})
"""
EVICT = """
from merging.builds import evict
from merging.models import Build
evict(Build.objects.get(equipped__slug={slug!r}))
"""


def recipe_of(visitor: Visitor, coefficient: str) -> tuple[str, str]:
    """Page and slug of a recipe that is really computed."""
    recipe = visitor.equip(("olive/mood", coefficient), ("nora/french", "-0.5"))
    return recipe, recipe.rpartition("/")[2]


def test_a_model_is_kept_ready_and_downloaded(site: Site, page: Page, tmp_path: Path) -> None:
    visitor = sign_in(page, site, "nora")
    recipe, slug = recipe_of(visitor, "0.61")
    streamed = visitor.get(f"{recipe}/{WEIGHTS}")
    page.goto(site.address + recipe)
    page.get_by_role("button", name="Keep it ready").click()
    files = page.locator("#equipped-files")
    expect(files).to_contain_text("ready since", timeout=60_000)
    sha256 = hashlib.sha256(streamed.body).hexdigest()
    copy = files.get_by_role("button", name="Copy the SHA-256 of model.safetensors")
    assert copy.get_attribute("data-copy") == sha256
    assert (site.data / "blobs" / sha256[:2] / sha256).read_bytes() == streamed.body
    with page.expect_download() as waiting:
        files.get_by_role("link", name="Download model.safetensors").click()
    waiting.value.save_as(tmp_path / "model.safetensors")
    assert (tmp_path / "model.safetensors").read_bytes() == streamed.body
    with page.expect_download() as waiting:
        page.get_by_role("link", name="Download, ").click()
    waiting.value.save_as(tmp_path / "model.zip")
    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        (name,) = [each for each in archive.namelist() if each.endswith("model.safetensors")]
        assert archive.read(name) == streamed.body
    built = visitor.get(f"{recipe}/{WEIGHTS}")
    assert (built.body, built.headers["ETag"]) == (streamed.body, streamed.headers["ETag"])
    # It made room: the page says so and offers it again, and the bytes are as they were.
    site.shell(EVICT.format(slug=slug))
    assert not (site.data / "blobs" / sha256[:2] / sha256).exists()
    page.reload()
    expect(files).to_contain_text("made room for others")
    expect(page.get_by_role("button", name="Keep it ready")).to_be_visible()
    assert visitor.get(f"{recipe}/{WEIGHTS}").body == streamed.body


@pytest.mark.parametrize("events", [True, False], ids=["events", "polled"])
def test_a_build_is_followed_as_it_goes_and_stopped(site: Site, page: Page, events: bool) -> None:
    """By events, and by asking again and again where they do not arrive."""
    if not events:
        page.route("**/events", lambda route: route.fulfill(status=204))
    visitor = sign_in(page, site, "nora")
    recipe, slug = recipe_of(visitor, "0.62" if events else "0.63")
    site.shell(RUNNING.format(slug=slug))
    page.goto(site.address + recipe)
    place = page.locator("#progress-build")
    expect(place).to_contain_text("100 kB of 400 kB")
    site.shell(CHANGED.format(slug=slug, change="done_bytes=200_000"))
    expect(place).to_contain_text("200 kB of 400 kB")
    expect(page.locator("#live")).to_have_text("Writing the files, 50 %")
    page.get_by_role("button", name="Stop the build").click()
    wait_for(
        lambda: site.row(
            "SELECT cancelled FROM merging_build JOIN merging_equippedmodel AS model"
            " ON model.id = equipped_id WHERE slug = ?",
            slug,
        ),
        lambda row: row == (1,),
    )
    site.shell(CHANGED.format(slug=slug, change="state='cancelled'"))
    expect(page.get_by_text("The build was stopped").first).to_be_visible()
    page.get_by_role("button", name="Build again").click()
    expect(page.locator("#equipped-files")).to_contain_text("ready since", timeout=60_000)


def test_it_works_without_a_script(site: Site, browser: Browser, problems: list[str]) -> None:
    with opened(browser, problems, java_script_enabled=False) as page:
        recipe, _slug = recipe_of(sign_in(page, site, "nora"), "0.64")
        page.goto(site.address + recipe)
        page.get_by_role("button", name="Keep it ready").click()
        # Until it has ended the page reloads itself.
        expect(page.locator("#equipped-files")).to_contain_text("ready since", timeout=60_000)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_state_fits_a_phone_and_axe(
    site: Site, browser: Browser, problems: list[str], scheme: str
) -> None:
    axe, found = Axe(), []
    size = {"width": 320, "height": 640}
    with opened(browser, problems, color_scheme=scheme, viewport=size) as page:
        visitor = sign_in(page, site, "nora")
        recipe, slug = recipe_of(visitor, "0.65" if scheme == "light" else "0.66")
        site.shell(RUNNING.format(slug=slug))
        for language in ("en", "zh-hant", "zh-hans"):
            page.set_extra_http_headers({"Accept-Language": language})
            for change in (
                {"state": "running"},
                {"state": "failed", "error": "The build broke. Try again."},
                {"state": "cancelled"},
                {"state": "evicted"},
            ):
                fields = ", ".join(f"{name}={value!r}" for name, value in change.items())
                site.shell(CHANGED.format(slug=slug, change=fields))
                page.goto(site.address + recipe)
                width = page.evaluate("document.documentElement.scrollWidth")
                assert width <= size["width"], (language, change)
                for problem in axe.run(page).response["violations"]:
                    if problem["impact"] in SERIOUS:
                        found.append((change, problem["id"], json.dumps(problem["nodes"])[:300]))
    assert found == []
