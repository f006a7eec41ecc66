"""static/js/upload.js in a browser: checks, stops, resumes, a server that dies, S3."""

import hashlib
import json
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import (
    Browser,
    BrowserContext,
    Locator,
    Page,
    Request,
    Route,
    expect,
    sync_playwright,
)

from tests.serving import free_port
from tests.vectors.live import Site, prepare, running
from tests.vectors.s3 import CREDENTIALS

pytestmark = [pytest.mark.browser, pytest.mark.slow]

MIB = 1 << 20
SIGN_IN = """
from importlib import import_module
from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.contrib.auth.models import User
user = User.objects.create_user("olive")
session = import_module(settings.SESSION_ENGINE).SessionStore()
session[SESSION_KEY] = str(user.pk)
session[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
session[HASH_SESSION_KEY] = user.get_session_auth_hash()
session.save()
print(session.session_key)
"""
SEAL = """
import json
from vectors import uploads
from vectors.models import Upload, Version
print(json.dumps({
    "states": list(Version.objects.values_list("state", flat=True)),
    "hashes": {upload.path: uploads.seal(upload).sha256 for upload in Upload.objects.all()},
}))
"""


def safetensors(length: int) -> bytes:
    """A file with one tensor of ``length`` bytes."""
    tensor = {"dtype": "U8", "shape": [length], "data_offsets": [0, length]}
    header = json.dumps({"weight": tensor}).encode()
    body = (hashlib.shake_256(b"weights").digest(4093) * (length // 4093 + 1))[:length]
    return struct.pack("<Q", len(header)) + header + body


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        yield browser
        browser.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model as save_pretrained and a trainer leave it."""
    model = tmp_path / "my-model"
    (model / "sub").mkdir(parents=True)
    (model / "model.safetensors").write_bytes(safetensors(12 * MIB))
    (model / "config.json").write_text("{}")
    (model / "sub/notes.txt").write_text("hello")
    (model / ".DS_Store").write_text("x")
    (model / "training_args.bin").write_text("x")
    (model / "empty.txt").touch()
    return model


SENT = ["config.json", "model.safetensors", "sub/notes.txt"]


def hashes(folder: Path) -> dict[str, str]:
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in SENT}


def sealed(data: Path, **variables: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(prepare(data, SEAL, **variables))
    return found


class Visitor:
    """A signed-in browser on the upload page, and the parts that it has sent."""

    def __init__(self, context: BrowserContext, url: str) -> None:
        self.url = url
        self.puts: list[str] = []
        self.errors: list[str] = []
        self.page: Page = context.new_page()
        self.page.on("request", self._note)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(f"{url}/upload")

    def _note(self, request: Request) -> None:
        if request.method == "PUT":
            self.puts.append(request.url)

    def choose(self, folder: Path) -> None:
        self.page.get_by_label("Folder").set_input_files(folder)
        expect(self.status).to_contain_text("3 files, ")

    @property
    def status(self) -> Locator:
        return self.page.locator("[data-status]")

    def press(self, name: str) -> None:
        self.page.get_by_role("button", name=name, exact=True).click()

    def wait_for_parts(self, count: int) -> None:
        for _try in range(600):
            if len(self.puts) >= count:
                return
            self.page.wait_for_timeout(50)
        pytest.fail(f"only {len(self.puts)} parts were sent")

    def slow(self, milliseconds: int) -> None:
        """Each part takes a while."""

        def handle(route: Route) -> None:
            self.page.wait_for_timeout(milliseconds)
            route.continue_()

        self.page.route("**/parts/**", handle)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    path.mkdir()
    return path


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context()
    yield context
    context.close()


def visit(context: BrowserContext, site: Site, session: str) -> Visitor:
    context.add_cookies([{"name": "sessionid", "value": session, "url": site.url}])
    return Visitor(context, site.url)


def test_a_folder(context: BrowserContext, data: Path, folder: Path) -> None:
    session = prepare(data, SIGN_IN)
    with running(data, TEST_PART=str(MIB)) as site:
        visitor = visit(context, site, session)
        page = visitor.page
        visitor.press("Upload")
        expect(visitor.status).to_have_text("Choose files or drop a folder first.")
        visitor.choose(folder)
        left_out = page.locator("[data-files] li[data-state=left-out]")
        expect(left_out).to_have_count(3)
        expect(left_out.filter(has_text=".DS_Store")).to_contain_text("a hidden file")
        expect(left_out.filter(has_text="training_args.bin")).to_contain_text("go on training")
        expect(left_out.filter(has_text="empty.txt")).to_contain_text("it is empty")

        cut = folder.parent / "cut.safetensors"
        cut.write_bytes(safetensors(MIB)[:-10])
        fake = folder.parent / "fake.safetensors"
        fake.write_bytes(b"PK\x03\x04" + b"x" * 1000)
        page.get_by_label("Files").set_input_files([cut, fake])
        expect(page.locator("li[data-state=problem]")).to_have_count(2)
        expect(visitor.status).to_contain_text("cut.safetensors has")
        visitor.press("Upload")
        expect(visitor.status).to_contain_text("Remove the files that are marked")
        assert visitor.puts == []
        page.get_by_role("button", name="Remove cut.safetensors").click()
        page.get_by_role("button", name="Remove fake.safetensors").click()

        pickle = folder.parent / "pytorch_model.bin"
        pickle.write_bytes(b"x")
        page.get_by_label("Files").set_input_files(pickle)
        expect(visitor.status).to_contain_text("4 files")
        visitor.press("Upload")
        expect(visitor.status).to_contain_text("safetensors only")  # the server's own sentence
        page.get_by_role("button", name="Remove pytorch_model.bin").click()

        visitor.press("Upload")
        page.wait_for_url("**/drafts/*")
        assert len(visitor.puts) == 15
        assert page.evaluate("localStorage.length") == 0
        assert visitor.errors == []
    assert sealed(data) == {"states": ["received"], "hashes": hashes(folder)}


def test_stop_reload_resume(context: BrowserContext, data: Path, folder: Path) -> None:
    session = prepare(data, SIGN_IN)
    with running(data, TEST_PART=str(MIB)) as site:
        visitor = visit(context, site, session)
        visitor.slow(300)
        visitor.choose(folder)
        visitor.press("Upload")
        visitor.wait_for_parts(7)
        visitor.press("Stop")
        expect(visitor.status).to_contain_text("What has arrived is kept")
        expect(visitor.page.get_by_role("button", name="Discard")).to_be_visible()
        first = len(visitor.puts)
        assert first < 15

        visitor.page.reload()
        visitor.choose(folder)
        visitor.press("Upload")
        expect(visitor.status).to_contain_text("there already:")
        visitor.page.wait_for_url("**/drafts/*")
        assert len(visitor.puts) <= 15 + 3  # at most those that were on their way
        assert visitor.errors == []
    assert sealed(data) == {"states": ["received"], "hashes": hashes(folder)}


def test_discard(context: BrowserContext, data: Path, folder: Path) -> None:
    session = prepare(data, SIGN_IN)
    with running(data, TEST_PART=str(MIB)) as site:
        visitor = visit(context, site, session)
        visitor.slow(300)
        visitor.choose(folder)
        visitor.press("Upload")
        visitor.wait_for_parts(4)
        visitor.press("Stop")
        visitor.press("Discard")
        expect(visitor.status).to_have_text("Discarded.")
    assert sealed(data) == {"states": [], "hashes": {}}
    assert list((data / "blobs/staging").iterdir()) == []


def test_the_server_dies(context: BrowserContext, data: Path, folder: Path) -> None:
    session = prepare(data, SIGN_IN)
    port = free_port()
    with running(data, port, TEST_PART=str(MIB)) as site:
        visitor = visit(context, site, session)
        visitor.slow(300)
        visitor.choose(folder)
        visitor.press("Upload")
        visitor.wait_for_parts(6)
    expect(visitor.status).to_contain_text("Trying again in", timeout=30_000)
    with running(data, port, TEST_PART=str(MIB)):
        visitor.page.wait_for_url("**/drafts/*", timeout=60_000)
    assert sealed(data) == {"states": ["received"], "hashes": hashes(folder)}


def test_offline(context: BrowserContext, data: Path, folder: Path) -> None:
    session = prepare(data, SIGN_IN)
    with running(data, TEST_PART=str(MIB)) as site:
        visitor = visit(context, site, session)
        visitor.slow(300)
        visitor.choose(folder)
        visitor.press("Upload")
        visitor.wait_for_parts(4)
        context.set_offline(True)
        expect(visitor.status).to_contain_text("No connection", timeout=30_000)
        context.set_offline(False)
        visitor.page.wait_for_url("**/drafts/*", timeout=30_000)
    assert sealed(data) == {"states": ["received"], "hashes": hashes(folder)}


def test_a_dropped_folder(context: BrowserContext, data: Path) -> None:
    """Entries as the browser gives them, more of them than one call to readEntries returns."""
    session = prepare(data, SIGN_IN)
    with running(data) as site:
        visitor = visit(context, site, session)
        visitor.page.evaluate(
            """async () => {
              const { filesOf, withoutTopFolder } = await import("/static/js/upload/choose.js");
              const entry = (name) => ({ name, isFile: true,
                file: (done) => done(new File(["x"], name)) });
              const folder = (name, children) => ({ name, isFile: false, createReader: () => {
                const left = [...children];
                return { readEntries: (done) => done(left.splice(0, 100)) };
              }});
              const many = Array.from({ length: 250 }, (_, n) => entry(`${n}.json`));
              const top = folder("model", [folder("sub", many), entry("config.json")]);
              const found = withoutTopFolder(await filesOf(top));
              document.title = [found.length, found[0].path, found.at(-1).path].join(" ");
            }"""
        )
        assert visitor.page.title() == "251 sub/0.json config.json"


def test_straight_to_s3(
    context: BrowserContext, data: Path, folder: Path, s3_endpoint: str, s3_bucket: str
) -> None:
    (folder / "model.safetensors").write_bytes(safetensors(12 * MIB))
    variables = {
        **CREDENTIALS,
        "ARMORY_S3_BUCKET": s3_bucket,
        "ARMORY_S3_ENDPOINT": s3_endpoint,
    }
    session = prepare(data, SIGN_IN, **variables)
    with running(data, TEST_PART=str(5 * MIB), **variables) as site:
        visitor = visit(context, site, session)
        visitor.choose(folder)
        visitor.press("Upload")
        visitor.page.wait_for_url("**/drafts/*")
        assert len(visitor.puts) == 5
        assert all(url.startswith(s3_endpoint) for url in visitor.puts)
        assert visitor.errors == []
    assert sealed(data, **variables) == {"states": ["received"], "hashes": hashes(folder)}
