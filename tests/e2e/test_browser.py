"""A newcomer in a real browser against the running site: equip and download; sign up and upload."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from django.conf import settings
from playwright.sync_api import Browser, Page, expect, sync_playwright
from safetensors.torch import load, save_file

from tests.engine.models import foundation as make_state
from tests.engine.models import tuned
from tests.environment import clean_environment
from tests.serving import free_port, serving, wait_until_healthy

pytestmark = [pytest.mark.browser, pytest.mark.slow]

CARD = "---\nbase_model: lab/tiny\nlicense: mit\n---\n# {title}\n"


def folder_with(path: Path, state: dict[str, torch.Tensor], title: str) -> Path:
    path.mkdir(parents=True)
    save_file(state, path / "model.safetensors")
    (path / "config.json").write_text("{}")
    (path / "README.md").write_text(CARD.format(title=title))
    return path


def manage(data: Path, *arguments: object) -> None:
    subprocess.run(
        [sys.executable, "manage.py", *map(str, arguments)],
        cwd=settings.BASE_DIR,
        env=clean_environment(data),
        check=True,
        capture_output=True,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    data, models = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("models")
    port = free_port()
    tiny = folder_with(models / "tiny", make_state(torch.float32), "Tiny")
    law = folder_with(models / "law", tuned(make_state(torch.float32), 1), "Law")
    with serving(data, port):
        wait_until_healthy(port)
        manage(data, "add_foundation", tiny, "--id", "lab/tiny")
        manage(
            data, "shell", "-c",
            "from django.contrib.auth import get_user_model as g; g().objects.create_user('olive')",
        )  # fmt: skip
        manage(
            data, "add_vector", law, "--id", "olive/law", "--foundation", "lab/tiny",
            "--owner", "olive",
        )  # fmt: skip
        yield f"http://localhost:{port}", models


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = next(
        found
        for name in ("chromium", "chromium-browser", "google-chrome")
        if (found := shutil.which(name))
    )
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(accept_downloads=True)
    opened = context.new_page()
    problems: list[str] = []
    opened.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
    opened.on("pageerror", lambda error: problems.append(str(error)))
    yield opened
    context.close()
    assert problems == []


def test_a_newcomer_equips_and_downloads(
    site: tuple[str, Path], page: Page, tmp_path: Path
) -> None:
    address, _models = site
    page.goto(address)
    page.get_by_role("navigation", name="Main").get_by_role("link", name="Vectors").click()
    page.get_by_role("link", name="Law").first.click()
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Equip & download").click()
    waiting.value.save_as(tmp_path / "model.zip")
    archive = zipfile.ZipFile(tmp_path / "model.zip")
    weights = next(name for name in archive.namelist() if name.endswith(".safetensors"))
    fine = tuned(make_state(torch.float32), 1)
    assert all(value.equal(fine[name]) for name, value in load(archive.read(weights)).items())
    expect(page.get_by_role("heading", name="Equipped model")).to_be_visible()


def test_someone_signs_up_and_publishes(site: tuple[str, Path], page: Page, tmp_path: Path) -> None:
    address, _models = site
    mine = folder_with(tmp_path / "mine", tuned(make_state(torch.float32), 2), "Mine")
    page.goto(f"{address}/upload")
    page.get_by_role("link", name="sign up").or_(
        page.get_by_role("link", name="Join")
    ).first.click()
    page.locator("input[name=username]").fill("nora")
    page.locator("input[name=email]").fill("nora@example.org")
    page.locator("input[name=password1]").fill("a long enough phrase")
    page.locator("input[name=password2]").fill("a long enough phrase")
    page.locator("main button[type=submit]").last.click()
    page.wait_for_url(lambda url: "/accounts/" not in url)
    page.goto(f"{address}/upload")
    page.locator("#files").set_input_files([str(path) for path in mine.iterdir()])
    page.get_by_role("button", name="Upload", exact=True).click()
    page.get_by_role("button", name="Inspect it").click()
    page.get_by_role("button", name="Publish").wait_for(timeout=60_000)
    page.locator("input[name=name]").fill("mine")
    page.get_by_role("button", name="Publish").click()
    page.wait_for_url(f"{address}/nora/mine")
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Equip & download").click()
    assert waiting.value.suggested_filename.endswith(".zip")


@pytest.mark.parametrize("path", ["/", "/vectors", "/foundations", "/lab/tiny", "/olive/law"])
def test_nothing_scrolls_sideways_on_a_narrow_phone(
    site: tuple[str, Path], page: Page, path: str
) -> None:
    page.set_viewport_size({"width": 320, "height": 640})
    page.goto(site[0] + path)
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
