"""A newcomer in a real browser: looks around, equips, downloads, loads the model; on any screen."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.conf import settings
from playwright.sync_api import Browser, Page, expect
from safetensors.torch import load_file

from tests.e2e import models
from tests.e2e.conftest import opened, sign_in
from tests.e2e.site import Site, wait_for
from tests.e2e.visitor import Visitor, folder_files
from tests.environment import clean_environment

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture(scope="module")
def drafts(site: Site, folders: Path) -> Iterator[list[str]]:
    """Pages of olive's drafts in three states: received, ready, refused."""
    olive = Visitor(site, "olive")
    lora = folder_files(folders / "olive/mood")
    cut = {"README.md": b"# Cut", "model.safetensors": (64).to_bytes(8, "little") + b"{}"}
    received, ready, refused = (olive.upload(files) for files in (lora, lora, cut))
    olive.inspect(ready, models.FOUNDATION)
    for page, sign in [(ready, "It fits"), (refused, "Refused"), (received, "Foundation found")]:
        wait_for(lambda page=page: olive.get(page).text, lambda text, sign=sign: sign in text)
    yield [received, ready, refused]
    for page in (received, ready, refused):
        assert olive.post(f"{page}/discard", form=page).goes_to == "/upload"


def unpack(archive: Path, folder: Path) -> Path:
    with zipfile.ZipFile(archive) as opened_archive:
        opened_archive.extractall(folder)
    (model,) = folder.iterdir()
    return model


def test_a_newcomer_equips_downloads_and_loads(
    site: Site, page: Page, folders: Path, tmp_path: Path
) -> None:
    page.goto(site.address)
    page.get_by_role("navigation", name="Main").get_by_role("link", name="Vectors").click()
    page.get_by_role("link", name="Mood").first.click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Mood")
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Equip & download").click()
    assert waiting.value.suggested_filename.endswith(".zip")
    waiting.value.save_as(tmp_path / "model.zip")
    expect(page.get_by_role("heading", name="Equipped model")).to_be_visible()

    from transformers import AutoModel, AutoTokenizer

    model_folder = unpack(tmp_path / "model.zip", tmp_path / "unpacked")
    model = AutoModel.from_pretrained(model_folder)
    assert len(AutoTokenizer.from_pretrained(model_folder)("a model learned")["input_ids"]) > 3
    recipe = model_folder / "recipe.yaml"
    command = [sys.executable, "-m", "merging", str(recipe), str(tmp_path / "local"), "--quiet"]
    subprocess.run(
        [*command, "--models", str(folders)],
        cwd=settings.BASE_DIR,
        env=clean_environment(tmp_path / "data"),
        check=True,
    )
    name = "model.safetensors"
    local = load_file(tmp_path / "local" / name)
    assert (tmp_path / "local" / name).read_bytes() == (model_folder / name).read_bytes()
    loaded = model.state_dict()
    assert local.keys() <= loaded.keys()
    assert all(value.equal(loaded[key]) for key, value in local.items())
    before = load_file(folders / models.FOUNDATION / name)
    changed = {key for key, value in local.items() if not value.equal(before[key])}
    assert changed == {key for key in before if key.endswith(("query.weight", "value.weight"))}


def test_the_keyboard_is_enough(site: Site, page: Page) -> None:
    page.goto(f"{site.address}/olive/mood")
    focused = "document.activeElement?.innerText.trim() ?? ''"
    page.keyboard.press("Tab")
    assert page.evaluate(focused) == "Skip to content"
    page.keyboard.press("Enter")
    stops = []
    for _press in range(60):
        page.keyboard.press("Tab")
        stops.append(page.evaluate(focused))
        if stops[-1] == "Equip & download":
            break
    assert stops[-1] == "Equip & download", stops
    shown = page.evaluate(
        "(s => s.outlineStyle !== 'none' || s.boxShadow !== 'none')"
        "(getComputedStyle(document.activeElement))"
    )
    assert shown, "the button does not show that it has the focus"
    with page.expect_download() as waiting:
        page.keyboard.press("Enter")
    assert waiting.value.failure() is None


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_narrow_phone(
    site: Site, browser: Browser, problems: list[str], drafts: list[str], scheme: str
) -> None:
    """No page scrolls sideways at 320 px, and each has the colours that the system asks for."""
    with opened(
        browser, problems, color_scheme=scheme, viewport={"width": 320, "height": 640}
    ) as page:
        recipe = sign_in(page, site, "olive").equip(("olive/mood", "0.75"), ("olive/law", "-0.25"))
        wide, wrong = {}, {}
        pages = ["/", "/vectors", "/vectors?form=lora&q=mood", "/vectors?q=nothing", "/foundations"]
        pages += [f"/{models.FOUNDATION}", "/olive/mood", "/olive/law", "/olive", recipe]
        for path in [*pages, "/upload", *drafts, "/accounts/email/"]:
            answer = page.goto(site.address + path)
            assert answer is not None
            assert answer.status == 200, path
            width = page.evaluate("document.documentElement.scrollWidth")
            if width > 320:
                wide[path] = width
            colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
            if (brightness(page, colour) < 0.5) != (scheme == "dark"):
                wrong[path] = colour
        assert (wide, wrong) == ({}, {})


def brightness(page: Page, colour: str) -> float:
    """Of a CSS colour in any notation, 0 to 1: painted, and the dot looked at."""
    red, green, blue = page.evaluate(
        """colour => {
            const pen = new OffscreenCanvas(1, 1).getContext("2d");
            pen.fillStyle = colour;
            pen.fillRect(0, 0, 1, 1);
            return [...pen.getImageData(0, 0, 1, 1).data.slice(0, 3)];
        }""",
        colour,
    )
    return float(red + green + blue) / 765


def test_the_theme_is_switched_and_kept(site: Site, page: Page) -> None:
    page.emulate_media(color_scheme="light")
    page.goto(site.address)
    colour = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(colour)
    page.get_by_role("button", name="Dark theme").click()
    dark = page.evaluate(colour)
    assert brightness(page, dark) < 0.5 < brightness(page, light)
    page.get_by_role("navigation", name="Main").get_by_role("link", name="Vectors").click()
    page.wait_for_url("**/vectors")
    assert page.evaluate(colour) == dark
    page.get_by_role("button", name="Light theme").click()
    assert page.evaluate(colour) == light
    page.reload()
    assert page.evaluate(colour) == light


@pytest.mark.parametrize(
    ("name", "code"), [("繁體中文", "zh-hant"), ("简体中文", "zh-hans")], ids=lambda value: value
)
def test_the_language_is_switched_and_kept(site: Site, page: Page, name: str, code: str) -> None:
    page.goto(f"{site.address}/vectors?q=mood")
    html = page.locator("html")
    expect(html).to_have_attribute("lang", "en")
    page.get_by_role("button", name=name).click()
    expect(html).to_have_attribute("lang", code)
    assert page.url == f"{site.address}/vectors?q=mood"
    expect(page.get_by_role("button", name=name)).to_have_attribute("aria-current", "true")
    page.goto(f"{site.address}/olive/mood")
    expect(html).to_have_attribute("lang", code)
    page.get_by_role("button", name="English").click()
    expect(html).to_have_attribute("lang", "en")
    expect(page.get_by_role("button", name="Equip & download")).to_be_visible()
