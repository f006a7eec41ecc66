"""Commits by clients: how each file travels, and the commit itself."""

from __future__ import annotations

import base64
import binascii
import codecs
from collections.abc import Iterable
from functools import partial
from typing import Any

from django.db import transaction
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect
from django.urls import reverse

from marketplace.hub.bases import find_base
from marketplace.hub.commit_body import (
    MAX_INLINE,
    Deleted,
    Header,
    Inline,
    Line,
    Pointer,
    read_commit,
)
from marketplace.hub.errors import (
    HubError,
    bad_request,
    entry_not_found,
    header_text,
)
from marketplace.hub.files import HubFile, git_sha1
from marketplace.hub.gitignore import is_ignored
from marketplace.hub.owning import row_of
from marketplace.hub.repositories import MAIN, Repository, Snapshot, at, find
from marketplace.hub.requests import Caller, endpoint, hub_view, json_body
from vectors.announced import MAX_FILE, TooLarge
from vectors.commits import tree_of
from vectors.errors import Refusal, _
from vectors.keeping import store_bytes
from vectors.models import Version
from vectors.possession import possessed
from vectors.pushes import Change, Moved, Put, Remove, push
from vectors.tensorfile.forms import check_kind, check_path, is_left_out

REGULAR = 1_000_000  # bytes; larger files, weights and binary ones travel by themselves
PREUPLOAD_FILES = 1000
SHORTEST_COMMIT = 7  # digits by which a client may name a commit


@hub_view("POST", scope="write")
def preupload(request: HttpRequest, caller: Caller, repo_id: str, rev: str) -> HttpResponse:
    """``POST /api/models/{id}/preupload/{rev}``: how each file travels, and what is there now."""
    repository = _writable(request, caller, repo_id, rev)
    body = json_body(request)
    files, ignore = body.get("files"), body.get("gitIgnore")
    if not isinstance(files, list) or len(files) > PREUPLOAD_FILES:
        raise bad_request(_("`files` must be a list of at most %d files.") % PREUPLOAD_FILES)
    there = repository.head().files
    rules = ignore if isinstance(ignore, str) else ""
    rows = [_announced(entry, there, rules) for entry in files]
    response = JsonResponse({"files": rows})
    left_out = [
        row["path"]
        for row in rows
        if row["shouldIgnore"] and row["path"][:1] != "." and not is_ignored(row["path"], rules)
    ]
    if left_out:
        names = ", ".join(left_out[:5]) + (f" +{len(left_out) - 5}" if len(left_out) > 5 else "")
        _warn(response, "left-out", _("Not kept, because no model needs it: %s.") % names)
    return response


@hub_view("POST", scope="write")
def commit(request: HttpRequest, caller: Caller, repo_id: str, rev: str) -> HttpResponse:
    """``POST /api/models/{id}/commit/{rev}``: the changes become a commit on ``main``."""
    repository = _writable(request, caller, repo_id, rev)
    head = repository.head()
    lines = read_commit(request)
    header = next(lines)
    assert isinstance(header, Header)
    _check_parent(header.parent, head)
    onto = head.source if isinstance(head.source, Version) else None
    changes = list(_changes(lines, caller, repository, head))
    try:
        version = push(
            row_of(repository, caller),
            changes=changes,
            message=header.summary,
            onto=onto,
            exactly=bool(header.parent),
            find=partial(find_base, caller=caller),
        )
    except Moved as moved:
        raise _moved(repository.id) from moved
    return _committed(request, repository, version, head, changes)


@hub_view("GET", "HEAD")
def commit_page(
    request: HttpRequest, caller: Caller, namespace: str, name: str, oid: str
) -> HttpResponse:
    """``/{id}/commit/{oid}``, the address that a push is answered with: where its page is."""
    repository = find(f"{namespace}/{name}", caller)
    version = at(repository, oid).source
    if isinstance(version, Version) and version.is_draft:
        return redirect("draft", pk=version.pk)
    number = version.number if isinstance(version, Version) else None
    page = reverse("repo", args=repository.id.split("/"))
    return redirect(f"{page}?version=v{number}" if number else page)


@hub_view("GET", "HEAD")
def files_page(
    request: HttpRequest, caller: Caller, namespace: str, name: str, rest: str
) -> HttpResponse:
    """``/{id}/tree/{rev}/…`` and ``/{id}/blob/{rev}/…``, which older clients print: the files are
    on the repository's page."""
    repository = find(f"{namespace}/{name}", caller)
    return redirect("repo", *repository.id.split("/"))


def _writable(request: HttpRequest, caller: Caller, repo_id: str, rev: str) -> Repository:
    repository = find(repo_id, caller)
    repository.check_writable()
    if request.GET.get("create_pr", "") not in ("", "0", "false"):
        raise bad_request(
            _(
                "There are no pull requests here. Push to a repository of your own, without "
                "create_pr."
            )
        )
    if rev.removeprefix("refs/heads/") != MAIN:
        at(repository, rev)  # RevisionNotFound says more where there is no such name
        raise bad_request(
            _("Only `main` takes pushes; other branches and tags name versions of it.")
        )
    return repository


# --- before anything travels -----------------------------------------------------------------


def _announced(entry: Any, there: dict[str, HubFile], rules: str) -> dict[str, Any]:
    """How one file travels: ``lfs`` by itself, ``regular`` inside the commit, or not at all."""
    path, size, sample = _fields(entry)
    if is_left_out(path) or is_ignored(path, rules):
        return {"path": path, "uploadMode": "regular", "shouldIgnore": True}
    check_kind(check_path(path))
    if size > MAX_FILE:
        raise TooLarge(
            _("%(file)s has %(size).1f GB, and one file may have %(limit)d. Save it in shards."),
            file=path,
            size=size / 1e9,
            limit=MAX_FILE // 10**9,
        )
    lfs = path.endswith(".safetensors") or size > REGULAR or _is_binary(sample)
    row: dict[str, Any] = {
        "path": path,
        "uploadMode": "lfs" if lfs else "regular",
        "shouldIgnore": False,
    }
    now = there.get(path)
    if now is not None and now.size == size:  # else it has changed, whatever its hash
        row["oid"] = now.sha256 if lfs else git_sha1(b"".join(now.read(0, now.size)))
    return row


def _fields(entry: Any) -> tuple[str, int, bytes]:
    if isinstance(entry, dict):
        path, size, sample = entry.get("path"), entry.get("size"), entry.get("sample", "")
        if isinstance(path, str) and type(size) is int and isinstance(sample, str):
            try:
                return path, size, base64.b64decode(sample, validate=True)
            except (binascii.Error, ValueError):
                pass
    raise bad_request(_("Each file needs a `path`, its `size`, and a `sample` in base64."))


def _is_binary(sample: bytes) -> bool:
    if b"\0" in sample:
        return True
    try:
        # Not final: the sample may end inside a character.
        codecs.getincrementaldecoder("utf-8")().decode(sample)
    except UnicodeDecodeError:
        return True
    return False


# --- the commit ------------------------------------------------------------------------------


def _check_parent(parent: str, head: Snapshot) -> None:
    if parent and (len(parent) < SHORTEST_COMMIT or not head.commit.startswith(parent)):
        raise _moved("main")


def _moved(name: str) -> HubError:
    return HubError(
        412,
        _("%(name)s is at another commit than the one this was made from. Look at it, then push.")
        % {"name": name},
    )


def _changes(
    lines: Iterable[Line], caller: Caller, repository: Repository, head: Snapshot
) -> Iterable[Change]:
    """The commit's lines as changes; what stands inside it is stored on the way."""
    added: set[str] = set()
    for line in lines:
        if isinstance(line, Header) or is_left_out(line.path):
            continue
        if isinstance(line, Deleted):
            inside = f"{line.path}/" if line.folder else line.path
            known = [*head.files, *added]
            if not any(
                path.startswith(inside) if line.folder else path == inside for path in known
            ):
                raise _nothing_to_delete(repository, line.path, head)
            yield Remove(line.path, line.folder)
            continue
        check_kind(check_path(line.path))
        added.add(line.path)
        yield Put(line.path, _bytes_of(line, caller, head))


def _bytes_of(line: Inline | Pointer, caller: Caller, head: Snapshot) -> str:
    """The hash of the blob that the line names or brings."""
    content = line.content if isinstance(line, Inline) else _written(line, head)
    if content is not None:
        with transaction.atomic():
            return store_bytes(content).pk
    assert isinstance(line, Pointer)
    blob = possessed(caller.user, line.sha256)
    if blob is None:
        raise Refusal(
            _("%(file)s was named by its hash but not sent. Push again: it is sent then."),
            file=line.path,
        )
    return blob.pk


def _written(line: Pointer, head: Snapshot) -> bytes | None:
    """The bytes of a file that is handed out otherwise than it is kept, of which clients ask for a
    copy by the hash that they were told."""
    for file in head.files.values():
        if file.sha256 == line.sha256 and file.blob is None and file.size <= MAX_INLINE:
            return b"".join(file.read(0, file.size))
    return None


def _nothing_to_delete(repository: Repository, path: str, head: Snapshot) -> HubError:
    error = entry_not_found(repository.id, path, head.commit)
    # Clients look for these words to explain the slash at the end of a folder's name.
    error.message = _("A file with this name doesn't exist: %(path)s") % {"path": path[:200]}
    return error


def _committed(
    request: HttpRequest,
    repository: Repository,
    version: Version | None,
    head: Snapshot,
    changes: list[Change],
) -> HttpResponse:
    oid = version.commit if version else head.commit
    url = f"{endpoint(request)}/{repository.id}/commit/{oid}"
    response = JsonResponse({"success": True, "commitOid": oid, "commitUrl": url, "hookOutput": ""})
    if version is None:
        return response
    sentences = []
    left = _replaced(version, head, changes)
    if left:
        sentences.append(
            _("Removed, because the weights of this commit replace them: %s.") % ", ".join(left)
        )
    if version.is_pushed and version.state == Version.State.UPLOADING:
        sentences.append(
            _("Kept. It becomes a version once %(missing)s is there as well.")
            % {"missing": version.draft["missing"]}
        )
    elif version.is_pushed:
        sentences.append(
            _("It is compared with %(foundation)s now and published when it fits: %(url)s")
            % {"foundation": version.foundation, "url": url}
        )
    if sentences:
        _warn(response, version.commit, " ".join(sentences))
    return response


def _replaced(version: Version, head: Snapshot, changes: list[Change]) -> list[str]:
    """The files that the commit lost without having been told to."""
    if head.source is None:
        return []
    lost = tree_of(head.source).keys() - tree_of(version).keys()
    told = [each for each in changes if isinstance(each, Remove)]
    return sorted(path for path in lost if not any(each.covers(path) for each in told))


def _warn(response: HttpResponse, topic: str, sentence: str) -> None:
    """Let the client print ``sentence``."""
    response.headers["X-HF-Warning"] = f"{topic}; {header_text(sentence)}"
