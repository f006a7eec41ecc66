"""The code on the pages does what it says: every snippet is run as it stands there."""

from __future__ import annotations

import html
import re
import subprocess
import urllib.request
from pathlib import Path

import pytest

from tests.clients.client import Client
from tests.e2e import models
from tests.e2e.site import Site
from tests.e2e.visitor import Visitor

pytestmark = pytest.mark.slow

_CODE = re.compile(r"<pre[^>]*aria-label=\"([^\"]*)\"[^>]*><code>(.*?)</code>", re.S)


def snippets(site: Site, path: str) -> dict[str, str]:
    """Code by its title, in the part of the page that says how to use what it shows."""
    with urllib.request.urlopen(f"{site.address}/{path}", timeout=60) as answer:
        page = answer.read().decode()
    part = page.partition('aria-labelledby="use"')[2].partition("</section>")[0]
    return {html.unescape(title): html.unescape(code) for title, code in _CODE.findall(part)}


@pytest.mark.parametrize(
    ("path", "tools"),
    [
        (models.FOUNDATION, ["transformers", "hf", "curl"]),
        ("olive/mood", ["transformers", "peft", "hf", "curl"]),
        ("olive/law", ["transformers", "the fine-tune itself", "hf", "curl"]),
        ("nora/french", ["transformers", "hf", "curl"]),
        ("", ["transformers", "by name", "as a revision", "hf", "curl"]),
    ],
)
def test_every_snippet_runs(
    client: Client, site: Site, tmp_path: Path, path: str, tools: list[str]
) -> None:
    if not path:
        path = Visitor(site).equip(("olive/mood", "0.75"), ("nora/french", "-0.5")).strip("/")
    found = snippets(site, path)
    assert list(found) == ["Settings for the shell", *tools]
    assert found.pop("Settings for the shell") == f"export HF_ENDPOINT={client.endpoint}"
    code = [text for title, text in found.items() if title not in ("hf", "curl")]
    assert client.python("\n".join([*code, "print(1)"])) == 1
    fetched = client.hf(*found["hf"].split()[1:])
    assert fetched.returncode == 0, fetched.stderr
    for line in found["curl"].splitlines():
        done = subprocess.run(line.split(), cwd=tmp_path, capture_output=True, check=False)
        assert done.returncode == 0, (line, done.stderr)
    weights = [each for each in tmp_path.iterdir() if each.suffix in (".safetensors", ".zip")]
    assert all(each.stat().st_size > 1000 for each in weights)
    assert weights
