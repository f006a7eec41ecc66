"""The loadout and the recipe's page in a real browser: put together, equip, check, read the table;
by keyboard, without a script, on a phone, and as axe sees them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from django.conf import settings
from playwright.sync_api import Browser, Locator, Page, expect
from safetensors.torch import load_file, save_file

from tests.e2e.conftest import opened, sign_in
from tests.e2e.site import Site, wait_for
from tests.e2e.visitor import Visitor

pytestmark = [pytest.mark.browser, pytest.mark.slow]

DEMO = Path(settings.BASE_DIR) / "demo"
FOUNDATION = "armory/tiny-convnext-20"
DIGITS, CLOTHES, UPRIGHT = "gail/digits", "gail/clothes", "gail/upright"
FOLDERS = {
    DIGITS: DEMO / "vectors/bo/handwritten-digits",
    CLOTHES: DEMO / "vectors/chen/upside-down-clothes",
}
ITEMS = 40  # of each probe: enough for a verdict, and quick
LOADOUT = f"/loadout?on={FOUNDATION}&v={DIGITS}&c=0.7&v={CLOTHES}&c=0.7"
SERIOUS = {"serious", "critical"}


def copied(source: Path, folder: Path) -> Path:
    """A vector's folder with the first items of its probe."""
    shutil.copytree(source, folder)
    probes = folder / "probes.jsonl"
    lines = probes.read_text().splitlines(keepends=True)
    probes.write_text("".join(lines[: ITEMS + 1]))
    return folder


def negated(source: Path, folder: Path) -> Path:
    """A delta that takes back what ``source`` adds."""
    folder.mkdir()
    delta = load_file(source / "delta.safetensors")
    save_file({name: -value for name, value in delta.items()}, folder / "delta.safetensors")
    card = (source / "README.md").read_text()
    (folder / "README.md").write_text(card.replace("Upside-down clothes", "Upright again"))
    return folder


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A shop of its own with a small image classifier, two of its vectors, and one that takes back
    what the second adds."""
    root = tmp_path_factory.mktemp("gallery")
    running = Site(tmp_path_factory.mktemp("gallery-site"))
    running.start()
    try:
        folders = {
            name: copied(source, root / name.partition("/")[2]) for name, source in FOLDERS.items()
        }
        folders[UPRIGHT] = negated(FOLDERS[CLOTHES], root / "upright")
        running.wait_until_ready()
        running.stock(
            users=("gail", "nora"),
            foundations=[(DEMO / "foundations" / FOUNDATION, FOUNDATION)],
            vectors=[(folder, name, FOUNDATION) for name, folder in folders.items()],
        )
        yield running
    finally:
        running.close()


@pytest.fixture(scope="module")
def checked(shop: Site) -> str:
    """The page of a recipe that has been checked and swept."""
    gail = Visitor(shop, "gail")
    recipe = gail.equip((DIGITS, "0.7"), (CLOTHES, "0.7"))
    assert gail.post(f"{recipe}/check", form=recipe).goes_to == recipe
    sweep = {"which": "all", "low": "0.4", "high": "1", "steps": "3"}
    assert gail.post(f"{recipe}/sweep", form=recipe, **sweep).goes_to == recipe
    wait_for(
        lambda: gail.get(recipe).text,
        lambda page: "table checked" in page and "table swept" in page,
        limit=300,
    )
    return recipe


def coefficient(page: Page, name: str) -> Locator:
    return page.get_by_role("spinbutton", name=f"Coefficient of {name}, as a number")


def test_a_newcomer_puts_a_loadout_together_equips_and_reads_the_table(
    shop: Site, page: Page
) -> None:
    page.goto(shop.address + "/" + DIGITS)
    page.get_by_role("link", name="Add to a loadout").click()
    expect(
        page.get_by_role("spinbutton", name=f"Coefficient of {DIGITS}, as a number")
    ).to_be_visible()
    page.get_by_role("button", name="Add Upside-down clothes").click()
    verdict = page.locator("[data-verdict]")
    expect(verdict).to_be_visible()
    assert "contradict" not in verdict.inner_text().lower()
    page.get_by_role("button", name="Add Upright again").click()
    expect(verdict).to_contain_text("ontradict")
    page.get_by_role("button", name=f"Remove {UPRIGHT}").click()
    expect(verdict).not_to_contain_text("ontradict")
    for name in (DIGITS, CLOTHES):
        coefficient(page, name).fill("0.8")
    expect(page.locator(".formula-text")).to_contain_text(f"0.8*{DIGITS} + 0.8*{CLOTHES}")
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Equip & download").click()
    assert waiting.value.failure() is None
    expect(page.get_by_role("heading", name="Equipped model")).to_be_visible()
    sign_in(page, shop, "nora")
    page.goto(page.url.partition("?")[0])
    page.get_by_role("button", name="Check its abilities").click()
    expect(page.locator("#progress-check progress")).to_be_visible()
    page.reload()  # the row is the truth: what one follows is the same after it
    table = page.get_by_role("region", name="Abilities, measured")
    expect(table).to_be_visible(timeout=300_000)  # put in place by the script, not by a reload
    row = table.get_by_role("row").filter(has_text="Upside-down clothes").filter(has_text="n = 40")
    expect(row).to_contain_text("learned")
    expect(page.locator("#live")).to_have_text("The result is there.")
    page.get_by_role("link", name="Edit in the loadout").click()
    expect(page.locator(".formula-text")).to_contain_text(f"0.8*{DIGITS} + 0.8*{CLOTHES}")


def tab_to(page: Page, found: str, presses: int = 90) -> None:
    """Press Tab until the focus is on what ``found`` says of ``e``."""
    for _press in range(presses):
        page.keyboard.press("Tab")
        if page.evaluate(f"(e => {found})(document.activeElement)"):
            return
    pytest.fail(f"Tab never reached {found}")


def test_the_keyboard_is_enough(shop: Site, page: Page) -> None:
    page.goto(shop.address + LOADOUT)
    tab_to(page, f"e.type === 'range' && e.ariaLabel.includes('{CLOTHES}')")
    for _press in range(2):
        page.keyboard.press("ArrowLeft")
    expect(page.locator(".formula-text")).to_contain_text(f"0.6*{CLOTHES}")
    tab_to(page, "e.innerText.trim() === 'Equip & download'")
    with page.expect_download() as waiting:
        page.keyboard.press("Enter")
    assert waiting.value.failure() is None
    expect(page.get_by_role("heading", name="Equipped model")).to_be_visible()
    tab_to(page, "e.innerText?.trim() === 'Sign in to check its abilities'")
    page.keyboard.press("Enter")
    page.wait_for_url("**/accounts/login/**")


def searched(page: Page) -> Locator:
    return page.get_by_role("searchbox", name="Find one")


def test_the_inventory_and_the_strip_follow_without_a_reload(shop: Site, page: Page) -> None:
    page.goto(f"{shop.address}/loadout?on={FOUNDATION}&v={DIGITS}&c=0.5")
    page.evaluate("window.kept = true")
    add = page.get_by_role("button", name="Add ", exact=False)
    expect(add).to_have_count(2)
    coefficient(page, DIGITS).fill("0.25")
    expect(page.locator(".formula-text")).to_contain_text(f"0.25*{DIGITS}")
    bars = page.get_by_role("list", name="Strength of the sum per layer")
    before = bars.inner_text()
    tab_to(page, "e.id === 'inventory-q'")
    page.keyboard.type("UPSIDE down")
    expect(add).to_have_count(1)
    expect(page.locator("#live")).to_have_text("1 vector found")
    page.keyboard.press("Enter")  # asks again, and sends no form
    page.keyboard.type(" zebra")
    expect(page.get_by_text("No other vector that fits has all of these words.")).to_be_visible()
    expect(searched(page)).to_be_focused()
    page.keyboard.press("Shift+Tab")
    tab_to(page, "e.type === 'range'", presses=200)  # round the page
    page.keyboard.press("ArrowRight")
    expect(page.locator(".formula-text")).to_contain_text(f"0.3*{DIGITS}")
    expect(bars).not_to_have_text(before)
    assert page.evaluate("window.kept"), "the page was loaded again"
    assert "q=UPSIDE+down+zebra" in page.url  # a reload shows the same
    page.reload()
    expect(searched(page)).to_have_value("UPSIDE down zebra")
    expect(coefficient(page, DIGITS)).to_have_value("0.3")
    page.get_by_role("link", name="Show all that fit").click()
    expect(add).to_have_count(2)
    expect(coefficient(page, DIGITS)).to_have_value("0.3")


def test_a_number_that_is_being_typed_moves_no_other(shop: Site, page: Page) -> None:
    page.goto(shop.address + LOADOUT)
    coefficient(page, DIGITS).fill("")
    formula = page.locator(".formula-text")
    expect(formula).to_have_text(f"{FOUNDATION} + {DIGITS} + 0.7*{CLOTHES}")
    page.reload()
    expect(coefficient(page, CLOTHES)).to_have_value("0.7")


def test_it_works_without_a_script(
    shop: Site, browser: Browser, problems: list[str], checked: str
) -> None:
    with opened(browser, problems, java_script_enabled=False) as page:
        page.goto(f"{shop.address}/loadout?on={FOUNDATION}")
        page.get_by_role("button", name="Add Handwritten digits").click()
        coefficient(page, DIGITS).fill("0.7")
        searched(page).fill("upside")
        searched(page).press("Enter")
        expect(page.get_by_role("button", name="Add ", exact=False)).to_have_count(1)
        expect(coefficient(page, DIGITS)).to_have_value("0.7")
        assert page.url.endswith("#inventory")
        page.get_by_role("button", name="Add Upside-down clothes").click()
        coefficient(page, CLOTHES).fill("0.5")
        strip = page.get_by_role("list", name="Strength of the sum per layer")
        expect(strip).to_contain_text("%")
        with page.expect_download() as waiting:
            page.get_by_role("button", name="Equip & download").click()
        assert waiting.value.failure() is None
        sign_in(page, shop, "gail")
        page.goto(shop.address + checked)
        table = page.get_by_role("region", name="Abilities, measured")
        expect(table).to_contain_text("of its own gain")
        page.get_by_role("button", name="Check again").click()
        # Everything is known already, so it ends soon; until then the page reloads itself.
        expect(page.get_by_role("button", name="Check again")).to_be_visible(timeout=120_000)
        expect(table).to_contain_text("of its own gain")


RUNNING = """
from datetime import timedelta
from django.utils import timezone
from merging.models import AbilityCheck, EquippedModel
row = EquippedModel.objects.get(slug={slug!r})
AbilityCheck.objects.create(
    equipped=row, state="running", stage="asking", done_bytes=30, total_bytes=120,
    owner_token="held", lease_until=timezone.now() + timedelta(minutes=10),
)
"""
CHANGED = """
from merging.models import AbilityCheck
AbilityCheck.objects.filter(equipped__slug={slug!r}).update({change})
"""


@pytest.mark.parametrize("events", [True, False], ids=["events", "polled"])
def test_a_job_is_followed_as_it_goes(shop: Site, page: Page, events: bool) -> None:
    """By events, and by asking again and again where they do not arrive."""
    if not events:
        page.route("**/events", lambda route: route.fulfill(status=204))
    visitor = sign_in(page, shop, "nora")
    recipe = visitor.equip((DIGITS, "0.45" if events else "0.35"))
    slug = recipe.rpartition("/")[2]
    shop.shell(RUNNING.format(slug=slug))
    page.goto(shop.address + recipe)
    place = page.locator("#progress-check")
    expect(place).to_contain_text("30 of 120 answers")
    page.get_by_label("Of", exact=True).focus()
    shop.shell(CHANGED.format(slug=slug, change="done_bytes=60"))
    expect(place).to_contain_text("60 of 120 answers")
    expect(page.locator("#live")).to_have_text("Asking the models, 50 %")
    expect(page.get_by_label("Of", exact=True)).to_be_focused()  # nothing else has moved
    shop.shell(
        CHANGED.format(slug=slug, change="state='failed', error='The check broke. Try again.'")
    )
    expect(page.get_by_text("The check did not end well")).to_be_visible()
    expect(page.get_by_role("button", name="Check again")).to_be_visible()


def pages(checked: str) -> list[str]:
    return [
        "/", "/vectors", "/vectors?q=digits", f"/{DIGITS}", "/loadout",
        f"{LOADOUT}&v={UPRIGHT}&c=1", f"{LOADOUT}&q=upright", f"{LOADOUT}&q=zebra", checked,
        "/how-merging-works", "/upload", "/settings/tokens",
    ]  # fmt: skip


def test_nothing_scrolls_sideways_on_a_narrow_phone(
    shop: Site, browser: Browser, problems: list[str], checked: str
) -> None:
    with opened(browser, problems, viewport={"width": 320, "height": 640}) as page:
        sign_in(page, shop, "gail")
        wide = {}
        for path in pages(checked):
            page.goto(shop.address + path)
            width = page.evaluate("document.documentElement.scrollWidth")
            if width > 320:
                wide[path] = width
        assert wide == {}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(
    shop: Site, browser: Browser, problems: list[str], checked: str, scheme: str
) -> None:
    axe, found = Axe(), []
    with opened(browser, problems, color_scheme=scheme) as page:
        sign_in(page, shop, "gail")
        for path in pages(checked):
            answer = page.goto(shop.address + path)
            assert answer is not None
            assert answer.status == 200, path
            page.evaluate("document.querySelectorAll('main details').forEach(e => e.open = true)")
            for problem in axe.run(page).response["violations"]:
                if problem["impact"] in SERIOUS:
                    found.append((path, problem["id"], [n["html"] for n in problem["nodes"]][:3]))
    assert found == []
