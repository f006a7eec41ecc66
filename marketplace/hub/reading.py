"""Downloads: what a repository is, what is in it, and the bytes of its files."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.http import (
    HttpRequest,
    HttpResponse,
    HttpResponseBase,
    HttpResponseRedirect,
    JsonResponse,
)

from marketplace.hub.counting import counted
from marketplace.hub.errors import HubError, entry_not_found
from marketplace.hub.files import HubFile, git_sha1, safetensors_header, shard_names
from marketplace.hub.info import expanded, info_of, iso
from marketplace.hub.paging import page_of
from marketplace.hub.repositories import MAIN, Repository, Snapshot, at, find, split_revision
from marketplace.hub.requests import (
    Caller,
    check_scope,
    endpoint,
    hub_view,
    json_body,
    segments_of,
)
from marketplace.models import Scope
from vectors.downloads import ranged_response
from vectors.views import content_type_of

TREE_PAGE = 1000
HISTORY_PAGE = 50


@hub_view("GET", "HEAD")
def model_info(request: HttpRequest, caller: Caller, repo_id: str, rev: str = "") -> HttpResponse:
    """``GET /api/models/{id}`` and ``…/revision/{rev}``: clients pin the ``sha`` they find here."""
    repository = find(repo_id, caller)
    snapshot = at(repository, rev)
    blobs = request.GET.get("blobs", "").lower() in ("1", "true")
    return JsonResponse(info_of(repository, snapshot, blobs=blobs, expand=expanded(request.GET)))


@hub_view("GET", "HEAD")
def tree(request: HttpRequest, caller: Caller, repo_id: str, rest: str) -> HttpResponse:
    """``GET /api/models/{id}/tree/{rev}/{folder}``, in pages."""
    repository = find(repo_id, caller)
    segments = segments_of(request, rest, 3 + len(repo_id.split("/")))  # api/models/{id}/tree/
    revision, folder = split_revision(repository, segments)
    snapshot = at(repository, revision)
    recursive = request.GET.get("recursive", "").lower() in ("1", "true")
    rows = list(_entries(snapshot, folder.strip("/"), recursive))
    if folder.strip("/") and not rows:
        raise entry_not_found(repository.id, folder, snapshot.commit)
    return page_of(request, _told_more(rows, snapshot, request.GET.get("expand", "")), TREE_PAGE)


@hub_view("POST")
def paths_info(request: HttpRequest, caller: Caller, repo_id: str, rev: str) -> HttpResponse:
    """``POST /api/models/{id}/paths-info/{rev}``: the entries of the paths asked for."""
    repository = find(repo_id, caller)
    snapshot = at(repository, rev)
    wanted, expand = _wanted_paths(request)
    rows = {row["path"]: row for row in _entries(snapshot, "", recursive=True)}
    found = [rows[path.strip("/")] for path in wanted if path.strip("/") in rows]
    return JsonResponse(_told_more(found, snapshot, expand), safe=False)


@hub_view("GET", "HEAD")
def refs(request: HttpRequest, caller: Caller, repo_id: str) -> HttpResponse:
    """``GET /api/models/{id}/refs``: branches and tags."""
    rows: dict[str, list[dict[str, str]]] = {"branch": [], "tag": []}
    heads = {"branch": "refs/heads/", "tag": "refs/tags/"}
    for name, (kind, commit) in find(repo_id, caller).names().items():
        rows[kind].append({"name": name, "ref": heads[kind] + name, "targetCommit": commit})
    return JsonResponse(
        {"branches": rows["branch"], "tags": rows["tag"], "converts": [], "pullRequests": []}
    )


@hub_view("GET", "HEAD")
def commits(request: HttpRequest, caller: Caller, repo_id: str, rev: str) -> HttpResponse:
    """``GET /api/models/{id}/commits/{rev}``: the history from a revision on, newest first."""
    repository = find(repo_id, caller)
    newest = at(repository, rev)
    history = (newest.repository or repository).history()
    start = next(i for i, each in enumerate(history) if each.commit == newest.commit)
    rows = [
        {
            "id": each.commit,
            "title": each.message,
            "message": "",
            "authors": [{"user": each.author}],
            "date": iso(each.created),
        }
        for each in history[start:]
    ]
    return page_of(request, rows, HISTORY_PAGE)


@hub_view("GET", "HEAD")
def auth_check(request: HttpRequest, caller: Caller, repo_id: str, kind: str = "") -> HttpResponse:
    """``GET /api/models/{id}/auth-check``: may the caller read it (``/write``: push to it)?"""
    repository = find(repo_id, caller)
    if kind == "write":
        check_scope(caller, Scope.WRITE)
        repository.check_writable()
    else:
        check_readable(request, repository, repository.head())
    return JsonResponse({})


@hub_view("GET", "HEAD")
def safetensors_metadata(
    request: HttpRequest, caller: Caller, repo_id: str, path: str
) -> HttpResponse:
    """``GET /api/models/{id}/safetensors-metadata/{index}``: the headers of all shards at once."""
    repository = find(repo_id, caller)
    snapshot = at(repository, request.GET.get("revision", MAIN))
    check_readable(request, repository, snapshot)
    file = snapshot.files.get(path)
    if file is None:
        raise entry_not_found(repository.id, path, snapshot.commit)
    if not path.endswith(".json"):
        return JsonResponse({"index": None, "headers": {path: safetensors_header(file)}})
    index, names = shard_names(file)
    folder = path.rpartition("/")[0]
    headers = {}
    for name in names:
        shard = snapshot.files.get(f"{folder}/{name}".lstrip("/"))
        if shard is None:
            raise entry_not_found(repository.id, name, snapshot.commit)
        headers[name] = safetensors_header(shard)
    return JsonResponse({"index": index, "headers": headers})


@hub_view("GET", "HEAD")
def resolve(
    request: HttpRequest, caller: Caller, namespace: str, name: str, rev: str, path: str
) -> HttpResponseBase:
    """``/{id}/resolve/{rev}/{path}``: the bytes of a file, in ranges."""
    return _resolve(request, caller, f"{namespace}/{name}", f"{rev}/{path}", 3)


@hub_view("GET", "HEAD")
def resolve_bare(
    request: HttpRequest, caller: Caller, name: str, rev: str, path: str
) -> HttpResponseBase:
    """``/{name}/resolve/{rev}/{path}``: a foundation by its bare name."""
    return _resolve(request, caller, name, f"{rev}/{path}", 2)


def _resolve(
    request: HttpRequest, caller: Caller, repo_id: str, rest: str, skipped: int
) -> HttpResponseBase:
    repository = find(repo_id, caller)
    revision, path = split_revision(repository, segments_of(request, rest, skipped))
    snapshot = at(repository, revision)
    file = snapshot.files.get(path)
    if file is None:
        raise entry_not_found(repository.id, path, snapshot.commit)
    check_readable(request, repository, snapshot)
    headers = {"X-Repo-Commit": snapshot.commit}
    if file.sha256:
        headers |= {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(file.size)}
    response = _bytes(request, file, headers)
    return counted(request, caller, repository, snapshot, file, response)


def _bytes(request: HttpRequest, file: HubFile, headers: dict[str, str]) -> HttpResponseBase:
    name, content_type = file.path.rsplit("/", 1)[-1], content_type_of(file.path)
    if file.direct is not None and _is_plain(request):
        url = file.direct(name)
        if url is not None:
            return HttpResponseRedirect(
                url, headers={"Cache-Control": "private, no-store", **headers}
            )
    return ranged_response(
        request,
        size=file.size,
        etag=file.etag,
        content_type=content_type,
        file_name=name,
        open_range=file.read,
        headers=headers,
    )


def _is_plain(request: HttpRequest) -> bool:
    """Whether the whole file is asked for, whatever its ETag: storage knows it by another one, and
    nobody would know which ranges it has sent."""
    special = ("Range", "If-Range", "If-None-Match")
    return request.method == "GET" and not any(name in request.headers for name in special)


def check_readable(request: HttpRequest, repository: Repository, snapshot: Snapshot) -> None:
    """Raise GatedRepo, whose message names the page of this very site where access is to be had."""
    try:
        (snapshot.repository or repository).check_readable(snapshot)
    except HubError as error:
        error.message = error.message.replace("{endpoint}", endpoint(request))
        raise


def _wanted_paths(request: HttpRequest) -> tuple[list[str], object]:
    """The paths that are asked for, and whether more is to be told of them."""
    if request.content_type == "application/json":
        body = json_body(request)
        paths = body.get("paths")
        named = paths if isinstance(paths, list) else []
        return [path for path in named if isinstance(path, str)], body.get("expand")
    return request.POST.getlist("paths"), request.POST.get("expand")


def _entries(snapshot: Snapshot, folder: str, recursive: bool) -> Iterator[dict[str, Any]]:
    inside = f"{folder}/" if folder else ""
    folders: set[str] = set()
    for path, file in snapshot.files.items():
        if not path.startswith(inside):
            continue
        parts = path[len(inside) :].split("/")
        for depth in range(1, len(parts) if recursive else min(len(parts), 2)):
            above = inside + "/".join(parts[:depth])
            if above not in folders:
                folders.add(above)
                yield {"type": "directory", "path": above, "size": 0, "oid": _folder_oid(above)}
        if recursive or len(parts) == 1:
            yield file.entry()


def _told_more(
    rows: list[dict[str, Any]], snapshot: Snapshot, expand: object
) -> list[dict[str, Any]]:
    """The entries; with their last commit where ``expand`` asks for it."""
    if str(expand).lower() not in ("1", "true"):
        return rows
    return [{**row, "lastCommit": _last_commit(snapshot)} for row in rows]


def _folder_oid(path: str) -> str:
    return git_sha1(path.encode())


def _last_commit(snapshot: Snapshot) -> dict[str, str]:
    return {"id": snapshot.commit, "title": snapshot.message, "date": iso(snapshot.created)}
