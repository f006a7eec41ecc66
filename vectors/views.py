"""Pages of what exists: the catalogue, foundations, vectors and their files."""

from __future__ import annotations

import hashlib
from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.db.models import Q
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.http import require_safe

from vectors import services, usage
from vectors.access import may_edit, may_read, may_see, request_of, seen_of
from vectors.adapters import handed_out
from vectors.catalogue import CatalogueQuery, shelves
from vectors.covers import remove_cover, set_cover
from vectors.describe import suggested_coefficient, with_newest_card
from vectors.downloads import blob_response
from vectors.errors import Refusal, explain, explain_row
from vectors.models import Blob, Claim, Foundation, Vector, Version
from vectors.neighbours import neighbours
from vectors.posting import number_of, post_only
from vectors.renaming import once_called

MAIN = "main"


@require_safe
def catalogue(request: HttpRequest) -> HttpResponse:
    """Shelves by foundation; a list as soon as something is asked."""
    query = CatalogueQuery.from_get(request.GET)
    context: dict[str, Any] = {"query": query, "facets": query.facets(), "sorts": query.sorts()}
    if query.narrowed:
        page = query.page_of_results()
        context |= {
            "page": page,
            "previous_url": query.url(page=page.previous_page_number())
            if page.has_previous()
            else "",
            "next_url": query.url(page=page.next_page_number()) if page.has_next() else "",
            "clear_url": reverse("catalogue"),
        }
    else:
        context["shelves"] = shelves(query.sort)
    return render(request, "vectors/catalogue.html", context)


@require_safe
def foundations(request: HttpRequest) -> HttpResponse:
    """All foundation models, busiest first."""
    rows = Foundation.objects.with_counts().defer("manifest", "card", "card_html")
    return render(request, "vectors/foundations.html", {"foundations": rows})


@require_safe
def repo(request: HttpRequest, namespace: str, name: str) -> HttpResponse:
    """A repository's page: a foundation's or a vector's; for its owner what was pushed to one in
    which nothing is published yet."""
    found = Foundation.objects.filter(namespace__iexact=namespace, name__iexact=name).first()
    if found is not None:
        return _foundation_page(request, found)
    claim = Claim.objects.filter(
        namespace__iexact=namespace, name__iexact=name, owner_id=request.user.pk
    ).first()
    if claim is not None:
        pushed = claim.versions.order_by("-pk").first()
        return redirect("draft", pk=pushed.pk) if pushed else redirect("profile", claim.namespace)
    vector = visible_vector(request, namespace, name)
    if vector.repo_id.lower() != f"{namespace}/{name}".lower():
        query = request.META.get("QUERY_STRING", "")
        return redirect(f"{vector.get_absolute_url()}{'?' if query else ''}{query}")
    return _vector_page(request, vector)


def visible_vector(request: HttpRequest, namespace: str, name: str) -> Vector:
    """The vector at this address, or that was before it was renamed; 404 where there is none that
    the visitor may know of."""
    vectors = Vector.objects.select_related("foundation", "current", "owner", "cover")
    vector = vectors.filter(namespace__iexact=namespace, name__iexact=name).first()
    vector = vector or once_called(namespace, name)
    if vector is None or vector.current is None or not may_see(request.user, vector.current):
        raise Http404
    return vector


def _foundation_page(request: HttpRequest, foundation: Foundation) -> HttpResponse:
    with_newest_card(foundation)
    vectors = Vector.objects.published().filter(foundation=foundation)
    context = {
        "foundation": foundation,
        "vectors": vectors.first_cards("equipped", 24),
        "vector_count": vectors.count(),
        "files": file_rows(foundation),
        "tensors": len(foundation.manifest),
        "usage": usage.of_foundation(foundation, endpoint=endpoint_of(request)),
    }
    return render(request, "vectors/foundation.html", context)


def _vector_page(request: HttpRequest, vector: Vector) -> HttpResponse:
    with_newest_card(vector)
    numbered = vector.versions.filter(number__isnull=False).order_by("-number")
    versions = seen_of(request.user, vector, numbered)
    wanted = request.GET.get("version", "")
    version = next((v for v in versions if f"v{v.number}" == wanted), vector.current)
    assert version is not None
    full_siblings = (
        Vector.objects.usable_by(request.user)
        .filter(foundation=vector.foundation, current__form="full")
        .exclude(pk=vector.pk)
        .for_cards()[:20]
    )
    readable, mine = may_read(request.user, version), may_edit(request.user, vector)
    context = {
        "vector": vector,
        "version": version,
        "versions": versions,
        "files": file_rows(version, readable=readable),
        "readable": readable,
        "asked": None if readable else request_of(request.user, vector),
        "verdict": explained_verdict(version),
        "coefficient": suggested_coefficient(version.card),
        "targets": full_siblings,
        "neighbours": neighbours(version, user=request.user),
        "related": Vector.objects.published()
        .filter(foundation=vector.foundation)
        .exclude(pk=vector.pk)
        .first_cards("equipped", 4),
        "may_edit": mine,
        "waiting": vector.access_requests.filter(state="pending").count() if mine else 0,
        "liked": request.user.is_authenticated
        and vector.liked_by.filter(user=request.user).exists(),
        "usage": usage.of_vector(version, endpoint=endpoint_of(request)),
    }
    return render(request, "vectors/vector.html", context)


def file_rows(owner: Foundation | Version, *, readable: bool = True) -> list[dict[str, Any]]:
    """The files of ``owner`` for ``partials/files_table.html``; links where they may be read."""
    repo_id = owner.repo_id if isinstance(owner, Foundation) else str(owner.vector)
    rev = MAIN if isinstance(owner, Foundation) else f"v{owner.number}"
    namespace, _slash, name = repo_id.partition("/")
    rows = []
    for file in owner.files.select_related("blob"):
        content = handed_out(owner, file)
        rows.append(
            {
                "path": file.path,
                "size": file.size if content is None else len(content),
                "sha256": file.blob_id if content is None else hashlib.sha256(content).hexdigest(),
                "url": reverse("resolve", args=[namespace, name, rev, file.path])
                if readable
                else "",
            }
        )
    return rows


def endpoint_of(request: HttpRequest) -> str:
    """This site as its clients call it, without a slash at the end."""
    return request.build_absolute_uri("/").rstrip("/")


def explained_verdict(version: Version) -> dict[str, Any]:
    """The inspection's verdict with its sentences in the reader's language."""
    verdict = dict(version.verdict)
    for kind in ("warnings", "notes"):
        verdict[kind] = [explain_row(row) for row in verdict.get(kind, [])]
    return verdict


def content_type_of(path: str) -> str:
    """The type a file is served with: never one that a browser would run or draw as a page."""
    if path.endswith(".json"):
        return "application/json"
    if path.endswith((".md", ".txt", ".yaml", ".yml", ".jsonl")):
        return "text/plain; charset=utf-8"
    return "application/octet-stream"


@require_safe
def cover(request: HttpRequest, sha256: str) -> HttpResponseBase:
    """A cover picture, by its hash; only blobs that are covers of what the visitor may see."""
    blob = get_object_or_404(Blob, sha256=sha256)
    used = Vector.objects.filter(Q(cover=blob) | Q(cover_small=blob))
    shown_to_all = used.published().exists()
    if not shown_to_all and not used.visible_to(request.user).exists():
        raise Http404
    kept_by = "public" if shown_to_all else "private"
    return blob_response(
        request,
        blob,
        "cover.webp",
        content_type="image/webp",
        inline=True,
        headers={"Cache-Control": f"{kept_by}, max-age=31536000, immutable"},
    )


@post_only("repo", "namespace", "name")
@login_required
def like(request: HttpRequest, namespace: str, name: str) -> HttpResponse:
    """Like or unlike; answers with the button for htmx, or goes back to the page."""
    vector = visible_vector(request, namespace, name)
    liked = request.POST.get("liked") == "1"
    services.set_like(request.user, vector, liked)
    vector.refresh_from_db(fields=["likes"])
    if getattr(request, "htmx", False):
        return render(request, "vectors/_like.html", {"vector": vector, "liked": liked})
    return redirect(vector)


@post_only("repo", "namespace", "name")
@login_required
def change_cover(request: HttpRequest, namespace: str, name: str) -> HttpResponse:
    """Set or remove the cover picture of one's own vector."""
    vector = visible_vector(request, namespace, name)
    if not may_edit(request.user, vector):
        raise Http404
    picture = request.FILES.get("cover")
    try:
        if request.POST.get("remove"):
            remove_cover(vector)
        elif picture is not None:
            set_cover(vector, picture, picture.size or 0)
    except Refusal as refusal:
        messages.error(request, explain(refusal))
    return redirect(vector)


@post_only("repo", "namespace", "name")
@login_required
def change_shelf(request: HttpRequest, namespace: str, name: str) -> HttpResponse:
    """Withdraw or restore a version of one's own vector."""
    vector = visible_vector(request, namespace, name)
    if not may_edit(request.user, vector):
        raise Http404
    version = get_object_or_404(vector.versions, number=number_of(request.POST.get("number")))
    try:
        if request.POST.get("action") == "restore":
            services.restore(version)
        else:
            services.withdraw(version)
    except Refusal as refusal:
        messages.error(request, explain(refusal))
    return redirect(vector)
