"""A maker in a real browser: signs up, uploads, is told what is wrong, publishes."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from playwright.sync_api import Browser, Page, Request, Route, expect

from tests.e2e import models
from tests.e2e.conftest import opened, sign_in
from tests.e2e.site import Site, stopped, wait_for

pytestmark = [pytest.mark.browser, pytest.mark.slow]

MIB = 2**20
LIMIT = 60_000  # milliseconds; two cores may be busy with other tests


def sign_up(page: Page, name: str) -> None:
    page.get_by_role("link", name="Join").click()
    page.locator("input[name=username]").fill(name)
    page.locator("input[name=email]").fill(f"{name}@example.org")
    page.locator("input[name=password1]").fill("a long enough phrase")
    page.locator("input[name=password2]").fill("a long enough phrase")
    page.locator("main button[type=submit]").last.click()
    page.wait_for_url(lambda url: "/accounts/" not in url)


def status(page: Page) -> str:
    return page.locator("[data-status]").inner_text()


def send(page: Page, site: Site, files: list[Path]) -> None:
    """Upload files by the form, up to the draft's page."""
    page.goto(f"{site.address}/upload")
    page.locator("#files").set_input_files(files)
    page.get_by_role("button", name="Upload", exact=True).click()
    page.wait_for_url("**/drafts/*")


def publish(page: Page, site: Site, name: str) -> None:
    page.get_by_role("button", name="Inspect it").click()
    expect(page.get_by_text("It fits Tiny BERT")).to_be_visible(timeout=LIMIT)
    page.locator("input[name=name]").fill(name)
    page.get_by_role("button", name="Publish").click()
    page.wait_for_url(f"{site.address}/*/{name}")


def equip(page: Page) -> None:
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Equip & download").click()
    assert waiting.value.failure() is None
    assert waiting.value.suggested_filename.endswith(".zip")


def test_someone_signs_up_and_publishes(
    site: Site, page: Page, folders: Path, tmp_path: Path
) -> None:
    base = folders / models.FOUNDATION
    lora = models.write_lora(tmp_path / "my-lora", base, "My LoRA", seed=11)
    page.goto(site.address)
    sign_up(page, "maya")
    page.get_by_role("navigation", name="Main").get_by_role("link", name="Upload").click()
    page.locator("#folder").set_input_files(lora)
    expect(page.locator("[data-files] li[data-state=ready]")).to_have_count(3)
    page.get_by_role("button", name="Upload", exact=True).click()
    page.wait_for_url("**/drafts/*")
    expect(page.get_by_text("Foundation found")).to_be_visible()
    expect(page.get_by_text(f"names {models.FOUNDATION} as its base model")).to_be_visible()
    with stopped(site.processes("celery")):
        page.get_by_role("button", name="Inspect it").click()
        expect(page.get_by_text("Waiting for a free worker").first).to_be_visible()
        expect(page.locator("progress")).to_be_visible()
    expect(page.get_by_text("It fits Tiny BERT")).to_be_visible(timeout=LIMIT)
    assert page.locator("input[name=title]").input_value() == "My LoRA"
    page.get_by_role("button", name="Preview the card").click()
    expect(page.locator("#preview")).to_contain_text("in one paragraph")
    page.locator("input[name=name]").fill("my-lora")
    page.get_by_role("button", name="Publish").click()
    page.wait_for_url(f"{site.address}/maya/my-lora")
    equip(page)

    full = models.write_full(tmp_path / "mine", base, "Mine", seed=12)
    (full / "README.md").write_text("# Mine\n\nNo word about where it comes from.\n")
    send(page, site, list(full.iterdir()))
    expect(page.get_by_text(f"names and shapes of {models.FOUNDATION}")).to_be_visible()
    publish(page, site, "mine")
    equip(page)
    page.goto(f"{site.address}/vectors?q=mine")
    expect(page.get_by_role("link", name="Mine").first).to_be_visible()


def test_without_javascript(
    site: Site, browser: Browser, problems: list[str], folders: Path, tmp_path: Path
) -> None:
    lora = models.write_lora(tmp_path / "plain", folders / models.FOUNDATION, "Plain", seed=13)
    with opened(browser, problems, java_script_enabled=False) as page:
        sign_in(page, site, "nora")
        send(page, site, list(lora.iterdir()))
        loads: list[str] = []
        page.on("request", lambda r: loads.append(r.url) if r.is_navigation_request() else None)
        with stopped(site.processes("celery")):
            page.get_by_role("button", name="Inspect it").click()
            expect(page.get_by_text("Waiting for a free worker").first).to_be_visible()
            loads.clear()
            with page.expect_request(lambda request: request.url == page.url):
                pass  # nobody touches it
        expect(page.get_by_text("It fits Tiny BERT")).to_be_visible(timeout=LIMIT)
        assert len(loads) >= 2
        page.locator("input[name=name]").fill("plain")
        page.get_by_role("button", name="Publish").click()
        page.wait_for_url(f"{site.address}/nora/plain")
        equip(page)


def spoil_nan(weights: dict[str, torch.Tensor]) -> None:
    weights["encoder.layer.1.output.dense.weight"][3, 4] = float("nan")


def not_a_number(folder: Path, base: Path) -> tuple[Path, str]:
    models.write_full(folder, base, "NaN", change=spoil_nan)
    tensor = "encoder.layer.1.output.dense.weight"
    return folder, f"{tensor} has values that are not finite (1 of them, the first is NaN)."


def another_architecture(folder: Path, base: Path) -> tuple[Path, str]:
    models.write_bert(folder, hidden=48)
    for path in folder.iterdir():
        if path.name not in ("model.safetensors", "config.json", "README.md"):
            path.unlink()
    return folder, f"48 here and 32 × 32 in {models.FOUNDATION}: this was trained from another"


def the_foundation_itself(folder: Path, base: Path) -> tuple[Path, str]:
    folder.mkdir()
    for name in ("model.safetensors", "config.json"):
        shutil.copy(base / name, folder)
    return folder, f"No change: every value equals {models.FOUNDATION}"


@pytest.mark.parametrize("make", [not_a_number, another_architecture, the_foundation_itself])
def test_what_is_no_vector_is_refused(
    site: Site,
    page: Page,
    folders: Path,
    tmp_path: Path,
    make: Callable[[Path, Path], tuple[Path, str]],
) -> None:
    """One sentence names the tensor, and nothing of it is kept."""
    before = site.stored()
    folder, sentence = make(tmp_path / "upload", folders / models.FOUNDATION)
    sign_in(page, site, "nora")
    send(page, site, list(folder.iterdir()))
    assert site.stored() > before
    page.get_by_label("Foundation model").select_option(label=models.FOUNDATION)
    page.get_by_role("button", name="Inspect it").click()
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text(sentence, timeout=LIMIT)
    expect(alert).to_have_count(1)
    wait_for(site.stored, lambda stored: stored == before)
    page.get_by_role("button", name="Remove this note").click()
    page.wait_for_url(lambda url: "/drafts/" not in url)


def test_a_pickle_is_refused(
    site: Site, page: Page, problems: list[str], folders: Path, tmp_path: Path
) -> None:
    before = site.stored()
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n")
    shutil.copy(folders / models.FOUNDATION / "config.json", tmp_path)
    sign_in(page, site, "nora")
    page.goto(f"{site.address}/upload")
    page.locator("#files").set_input_files(list(tmp_path.iterdir()))
    page.get_by_role("button", name="Upload", exact=True).click()
    sentence = "pytorch_model.bin is not accepted: weights come as safetensors only"
    expect(page.locator("[data-status]")).to_contain_text(sentence)
    assert site.stored() == before
    # Chromium notes each answer of 400 in its console; that is all it may have noted.
    assert len(problems) == 1
    assert "status of 400" in problems.pop()


def test_a_cut_file_is_found_before_it_is_sent(
    site: Site, page: Page, folders: Path, tmp_path: Path
) -> None:
    whole = (folders / models.FOUNDATION / "model.safetensors").read_bytes()
    cut = tmp_path / "model.safetensors"
    cut.write_bytes(whole[:-100])
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url))
    sign_in(page, site, "nora")
    page.goto(f"{site.address}/upload")
    page.locator("#files").set_input_files(cut)
    expect(page.locator("[data-status]")).to_contain_text(
        f"model.safetensors has {len(whole) - 100:,} bytes and should have {len(whole):,}"
    )
    page.get_by_role("button", name="Upload", exact=True).click()
    expect(page.locator("[data-status]")).to_contain_text("Remove the files that are marked")
    assert not [url for url in sent if "/uploads/" in url]


def test_a_cut_file_is_refused_without_javascript(
    site: Site, browser: Browser, problems: list[str], folders: Path, tmp_path: Path
) -> None:
    whole = (folders / models.FOUNDATION / "model.safetensors").read_bytes()
    cut = tmp_path / "model.safetensors"
    cut.write_bytes(whole[:-100])
    before = site.stored()
    with opened(browser, problems, java_script_enabled=False) as page:
        sign_in(page, site, "nora")
        send(page, site, [cut])
        expect(page.get_by_role("alert")).to_contain_text("model.safetensors")
        wait_for(site.stored, lambda stored: stored == before)
        page.get_by_role("button", name="Remove this note").click()


def test_files_chosen_before_the_script_is_there(site: Site, page: Page, folders: Path) -> None:
    held: list[Route] = []
    sign_in(page, site, "nora")
    page.route(re.compile(r"/js/upload\.[^/]*js"), lambda route: held.append(route))
    page.goto(f"{site.address}/upload", wait_until="commit")
    page.locator("#files").set_input_files(list((folders / "olive/mood").iterdir()))
    wait_for(lambda: page.wait_for_timeout(20) or held, bool)
    for route in held:
        route.continue_()
    expect(page.locator("[data-files] li[data-state=ready]")).to_have_count(3)


def test_a_reload_goes_on_where_it_was(site: Site, page: Page, tmp_path: Path) -> None:
    """70 MB are three parts; the page is reloaded when the first has arrived."""
    before = site.stored()
    file = tmp_path / "model.safetensors"
    models.repeated({"layer.weight": (35 * 1000, 1000)}).write(file)
    assert 64 * MIB < file.stat().st_size < 96 * MIB
    sign_in(page, site, "nora")
    sent: list[str] = []
    page.on("request", lambda request: note_part(request, sent))
    page.on("dialog", lambda dialog: dialog.accept())  # "leave this page?"
    # These two hang until the page goes away.
    page.route(re.compile(r"/parts/[23]\?"), lambda _route: None)
    page.goto(f"{site.address}/upload")
    page.locator("#files").set_input_files(file)
    with page.expect_response(re.compile(r"/parts/1\?"), timeout=LIMIT) as waiting:
        page.get_by_role("button", name="Upload", exact=True).click()
    assert waiting.value.status == 200
    wait_for(lambda: page.wait_for_timeout(20) or sorted(sent), lambda s: s == ["1", "2", "3"])
    page.reload()
    page.unroute_all(behavior="ignoreErrors")
    sent.clear()
    page.locator("#files").set_input_files(file)
    page.get_by_role("button", name="Upload", exact=True).click()
    page.wait_for_url("**/drafts/*", timeout=LIMIT)
    assert sorted(sent) == ["2", "3"]
    pk = page.url.rsplit("/", 1)[-1]
    (upload,) = site.row("SELECT id FROM vectors_upload WHERE version_id = ?", pk)
    (staged,) = (site.data / "blobs/staging").iterdir()
    assert staged.name.replace("-", "").startswith(upload)
    assert staged.read_bytes() == file.read_bytes()
    expect(page.get_by_text("No foundation of this shop has tensors of these")).to_be_visible()
    page.get_by_role("button", name="Discard this upload").click()
    page.wait_for_url("**/upload")
    assert site.stored() == before


def note_part(request: Request, sent: list[str]) -> None:
    if request.method == "PUT":
        sent.append(request.url.partition("/parts/")[2].partition("?")[0])
