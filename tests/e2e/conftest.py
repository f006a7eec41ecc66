"""A stocked site for the tests of the whole, and a browser that forgives nothing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.e2e import models
from tests.e2e.site import Site
from tests.e2e.visitor import Visitor

expect.set_options(timeout=20_000)  # milliseconds; two cores may be busy with other tests
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
WITHDRAWN = "olive/old"


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models: lab/tiny-bert, olive/mood (LoRA), olive/law (full), nora/french (delta)
    and olive/old, a full one that its owner withdraws."""
    root = tmp_path_factory.mktemp("models")
    base = models.write_bert(root / models.FOUNDATION)
    models.write_lora(root / "olive/mood", base, "Mood")
    models.write_full(root / "olive/law", base, "Law")
    models.write_delta(root / "nora/french", base, "French")
    models.write_full(root / WITHDRAWN, base, "Old", seed=9)
    return root


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Any]:
    """The running shop with the models of ``folders`` on its shelves. The users olive, nora and
    sten have the password of ``tests.e2e.site``."""
    running = Site(tmp_path_factory.mktemp("site"))
    running.start()
    try:
        folders: Path = request.getfixturevalue("folders")  # written while the site starts
        running.wait_until_ready()
        names = ["olive/mood", "olive/law", "nora/french", WITHDRAWN]
        running.stock(
            users=("olive", "nora", "sten"),
            foundations=[(folders / models.FOUNDATION, models.FOUNDATION)],
            vectors=[(folders / name, name, models.FOUNDATION) for name in names],
        )
        olive = Visitor(running, "olive")
        page = f"/{WITHDRAWN}"
        olive.post(f"{page}/shelf", form=page, number="1", action="withdraw")
        yield running
    finally:
        running.close()


# The browser's event loop runs in this thread, and Django refuses database work beside it: the
# browser ends with its module.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        pytest.fail(f"none of {', '.join(PROGRAMS)} is installed: run `make browser`")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield running
        running.close()


@contextmanager
def opened(browser: Browser, problems: list[str], **options: Any) -> Iterator[Page]:
    """A page in a fresh profile. What the console or a script complains of, a breach of the
    content security policy included, is added to ``problems``."""
    context = browser.new_context(accept_downloads=True, **options)
    context.set_default_timeout(20_000)
    page = context.new_page()
    page.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    try:
        yield page
    finally:
        context.close()


@pytest.fixture
def problems() -> Iterator[list[str]]:
    """Complaints of the browser; a test fails when one is left at its end."""
    found: list[str] = []
    yield found
    assert found == []


@pytest.fixture
def page(browser: Browser, problems: list[str]) -> Iterator[Page]:
    with opened(browser, problems) as page:
        yield page


def sign_in(page: Page, site: Site, name: str) -> Visitor:
    """Give the browser the session of ``name``."""
    visitor = Visitor(site, name)
    page.context.add_cookies(
        [{"name": k, "value": v, "url": site.address} for k, v in visitor.cookies.items()]
    )
    return visitor
