"""A client of the running site without a browser: cookies, forms, uploads, streams."""

from __future__ import annotations

import hashlib
import http.client
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPMessage
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from tests.e2e.models import Repeated
from tests.e2e.site import PASSWORD, Site

_TOKEN = re.compile(r'name="csrfmiddlewaretoken" value="(\w+)"')
PIECE = 2**20


@dataclass(frozen=True)
class Answer:
    """Status, headers and body of a response."""

    status: int
    headers: HTTPMessage  # whatever the case of their names
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def goes_to(self) -> str:
        """Where a redirect leads, without host and query."""
        assert 300 <= self.status < 400, (self.status, self.text[:500])
        return urlsplit(self.headers["Location"]).path


class Visitor:
    """Somebody with cookies, signed in or not."""

    def __init__(self, site: Site, name: str = "") -> None:
        self.site = site
        self.cookies: dict[str, str] = {}
        if name:
            fields = {"login": name, "password": PASSWORD}
            assert self.post("/accounts/login/", form="/accounts/login/", **fields).status == 302

    @contextmanager
    def open(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> Iterator[http.client.HTTPResponse]:
        """A response that has not been read yet. ``_`` in names of headers becomes ``-``."""
        link = http.client.HTTPConnection("127.0.0.1", self.site.port, timeout=120)
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        sent["Host"] = f"localhost:{self.site.port}"
        sent["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        try:
            link.request(method, path, body, sent)
            answer = link.getresponse()
            for line in answer.headers.get_all("Set-Cookie") or []:
                self.cookies |= {name: each.value for name, each in SimpleCookie(line).items()}
            yield answer
        finally:
            link.close()

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        with self.open(method, path, body, **headers) as answer:
            return Answer(answer.status, answer.headers, answer.read())

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, **headers)

    def post(self, path: str, *, form: str = "/vectors", **fields: str) -> Answer:
        """Post a form with the token of the page ``form``."""
        body = urlencode({"csrfmiddlewaretoken": self.token(form), **fields}).encode()
        return self.ask("POST", path, body, Content_Type="application/x-www-form-urlencoded")

    def token(self, page: str = "/vectors") -> str:
        found = _TOKEN.search(self.get(page).text)
        assert found, page
        return found[1]

    def equip(self, *terms: tuple[str, str], on: str = "") -> str:
        """Press Equip for (vector, coefficient) pairs; the path of the recipe's page."""
        token = self.token()
        fields = [("csrfmiddlewaretoken", token), ("on", on)]
        for vector, coefficient in terms:
            fields += [("vector", vector), ("coefficient", coefficient)]
        answer = self.ask(
            "POST",
            "/equip",
            urlencode(fields).encode(),
            Content_Type="application/x-www-form-urlencoded",
        )
        assert answer.goes_to.startswith("/equipped/"), answer.goes_to
        return answer.goes_to

    def upload(self, files: Mapping[str, bytes | Repeated]) -> str:
        """Announce and send files as a script does; the path of the draft's page."""
        headers = {"X_CSRFToken": self.token(), "Content_Type": "application/json"}
        sizes = {path: f.size if isinstance(f, Repeated) else len(f) for path, f in files.items()}
        announced = {"files": [{"path": path, "size": size} for path, size in sizes.items()]}
        answer = self.ask("POST", "/uploads/", json.dumps(announced).encode(), **headers)
        assert answer.status == 201, answer.text
        draft = answer.json()
        for upload in draft["uploads"]:
            file = files[upload["path"]]
            for part in upload["parts"]:
                start = (part["number"] - 1) * upload["part_size"]
                stop = start + part["size"]
                piece = file.read(start, stop) if isinstance(file, Repeated) else file[start:stop]
                assert self.ask("PUT", part["url"], piece).status == 200
            assert self.ask("POST", upload["complete"], b"{}", **headers).status == 200
        return str(draft["url"])

    def inspect(self, draft: str, foundation: str) -> None:
        """Confirm the foundation of a draft, which starts its inspection."""
        namespace, _slash, name = foundation.partition("/")
        pk = self.site.row(
            "SELECT id FROM vectors_foundation WHERE namespace = ? AND name = ?", namespace, name
        )[0]
        assert self.get(draft).status == 200
        assert self.post(f"{draft}/inspect", form=draft, foundation=str(pk)).goes_to == draft


def folder_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def read_hash(answer: http.client.HTTPResponse) -> tuple[int, str]:
    """Bytes and SHA-256 of what is left of a response."""
    digest, count = hashlib.sha256(), 0
    while piece := answer.read(PIECE):
        digest.update(piece)
        count += len(piece)
    return count, digest.hexdigest()
