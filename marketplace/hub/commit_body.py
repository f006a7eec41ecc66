"""The body of a commit: one JSON object a line, read as it comes, within bounds.

``{"key": "header", "value": {"summary", "description", "parentCommit"}}`` first, then ``file``
(base64 inside), ``lfsFile`` (by its SHA-256), ``deletedFile`` and ``deletedFolder``.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from vectors.announced import TooLarge
from vectors.errors import Refusal, _

MAX_INLINE = 8 << 20  # of one file inside a commit; larger ones travel by LFS
MAX_LINE = MAX_INLINE * 4 // 3 + 4096
MAX_LINES = 2000
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Lines(Protocol):
    """What a commit is read from: a request."""

    def readline(self, size: int, /) -> bytes: ...


@dataclass(frozen=True)
class Header:
    """What the commit says of itself; ``parent`` is empty unless it insists on one."""

    summary: str
    parent: str = ""


@dataclass(frozen=True)
class Inline:
    """A file whose bytes are in the commit."""

    path: str
    content: bytes


@dataclass(frozen=True)
class Pointer:
    """A file whose bytes were sent before, or are in the repository already."""

    path: str
    sha256: str


@dataclass(frozen=True)
class Deleted:
    """A file or a folder that goes."""

    path: str
    folder: bool


Line = Header | Inline | Pointer | Deleted


def read_commit(body: Lines) -> Iterator[Line]:
    """The lines of a commit; the first is its Header. Raises Refusal naming line or file."""
    number, begun = 0, False
    while raw := body.readline(MAX_LINE + 1):
        number += 1
        if len(raw) > MAX_LINE or number > MAX_LINES:
            raise TooLarge(
                _(
                    "Line %(number)d of the commit is too long, or one too many. Files over "
                    "%(limit)d MB are sent by LFS, and a commit takes %(lines)d changes."
                ),
                number=number,
                limit=MAX_INLINE >> 20,
                lines=MAX_LINES,
            )
        if not raw.strip():
            continue
        line = _line(raw, number)
        if isinstance(line, Header) == begun:
            raise Refusal(_("A commit begins with its header, and has one only."))
        begun = True
        yield line
    if not begun:
        raise Refusal(_("The commit is empty: it has not even a header."))


def _line(raw: bytes, number: int) -> Line:
    try:
        entry = json.loads(raw)
        key, value = entry["key"], entry["value"]
    except (ValueError, RecursionError, TypeError, KeyError) as error:
        raise _unreadable(number) from error
    if not isinstance(value, dict):
        raise _unreadable(number)
    if key == "header":
        return Header(_text(value, "summary", number), _text(value, "parentCommit", number))
    path = _text(value, "path", number)
    if key == "file":
        return Inline(path, _content(value, path))
    if key == "lfsFile":
        sha256 = _text(value, "oid", number).lower()
        if value.get("algo", "sha256") != "sha256" or not _SHA256.fullmatch(sha256):
            raise Refusal(_("%(file)s is not named by a SHA-256."), file=path[:200])
        return Pointer(path, sha256)
    if key in ("deletedFile", "deletedFolder"):
        return Deleted(path.strip("/"), key == "deletedFolder")
    raise Refusal(
        _("Line %(number)d of the commit is a “%(key)s”, which is not known here."),
        number=number,
        key=str(key)[:40],
    )


def _text(value: dict[str, Any], name: str, number: int) -> str:
    text = value.get(name) or ""
    if not isinstance(text, str):
        raise _unreadable(number)
    return text


def _content(value: dict[str, Any], path: str) -> bytes:
    content, encoding = value.get("content"), value.get("encoding", "utf-8")
    if not isinstance(content, str) or encoding not in ("base64", "utf-8"):
        raise Refusal(_("The content of %(file)s cannot be read."), file=path[:200])
    try:
        return content.encode() if encoding == "utf-8" else base64.b64decode(content, validate=True)
    except ValueError as error:  # binascii.Error and UnicodeEncodeError are
        raise Refusal(
            _("The content of %(file)s is not %(encoding)s."), file=path[:200], encoding=encoding
        ) from error


def _unreadable(number: int) -> Refusal:
    return Refusal(_("Line %(number)d of the commit cannot be read."), number=number)
