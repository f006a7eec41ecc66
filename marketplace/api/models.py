"""``GET /api/models``: the catalogue as a model hub lists it."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, JsonResponse
from django.views.decorators.http import require_safe

from vectors.cards import read_card, text_of
from vectors.models import Foundation, Vector
from vectors.querysets import VectorQuerySet

MAX_LIMIT = 1000
_SORTS = {
    "createdAt": "new",
    "lastModified": "new",
    "downloads": "equipped",
    "likes": "liked",
    "trendingScore": "equipped",
}
_RELATIONS = {"full": "finetune", "delta": "finetune", "lora": "adapter"}


@require_safe
def list_models(request: HttpRequest) -> JsonResponse:
    """Foundations and published vectors; ``search``, ``author``, ``filter`` (repeated: a tag such
    as ``base_model:org/name``), ``pipeline_tag``, ``sort`` and ``limit`` narrow and order."""
    limit_text = request.GET.get("limit", "")
    limit = min(int(limit_text), MAX_LIMIT) if limit_text.isdigit() else MAX_LIMIT
    words = request.GET.get("search", "")
    author = request.GET.get("author", "")
    vectors = Vector.objects.published().matching(words).select_related("foundation", "current")
    foundations = Foundation.objects.all().defer("manifest", "card_html")
    for word in words.split():
        foundations = foundations.filter(search_text__contains=word.casefold())
    if author:
        vectors = vectors.filter(namespace__iexact=author)
        foundations = foundations.filter(namespace__iexact=author)
    if request.GET.get("pipeline_tag"):
        vectors = vectors.filter(pipeline_tag=request.GET["pipeline_tag"])
        foundations = foundations.filter(pipeline_tag=request.GET["pipeline_tag"])
    wanted = [tag for part in request.GET.getlist("filter") for tag in part.split(",") if tag]
    vectors = _with_base(vectors, wanted)
    sort = _SORTS.get(request.GET.get("sort", ""), "new")
    rows = [vector_data(vector) for vector in vectors.sorted_by(sort)[:MAX_LIMIT]]
    rows += [foundation_data(foundation) for foundation in foundations.order_by("-created")]
    rows = [row for row in rows if all(tag in row["tags"] for tag in wanted)]
    return JsonResponse(rows[:limit], safe=False)


def _with_base(vectors: VectorQuerySet, wanted: list[str]) -> VectorQuerySet:
    for tag in wanted:
        kind, _colon, base = tag.partition(":")
        if kind == "base_model" and base:
            vectors = vectors.facet("foundation", base.rsplit(":", 1)[-1])
    return vectors


def vector_data(vector: Vector) -> dict[str, Any]:
    """One vector in the shape of a hub's model list."""
    version = vector.current
    assert version is not None
    base = vector.foundation.repo_id
    relation = _RELATIONS[version.form]
    tags = [
        *vector.tags,
        "safetensors",
        "task-vector",
        f"form:{version.form}",
        f"base_model:{base}",
        f"base_model:{relation}:{base}",
    ]
    return {
        **_common(vector, tags),
        "author": vector.namespace,
        "sha": version.digest[:40],
        "lastModified": _iso(version.published or vector.created),
        "library_name": "peft" if version.form == "lora" else _library(vector.card),
        "usedStorage": version.nbytes,
    }


def foundation_data(foundation: Foundation) -> dict[str, Any]:
    """One foundation in the shape of a hub's model list."""
    return {
        **_common(foundation, [*foundation.tags, "safetensors", "foundation"]),
        "author": foundation.namespace,
        "sha": foundation.fingerprint[:40],
        "lastModified": _iso(foundation.created),
        "library_name": _library(foundation.card),
        "usedStorage": foundation.nbytes,
    }


def _common(repository: Vector | Foundation, tags: list[str]) -> dict[str, Any]:
    extra = [f"license:{repository.license}"] if repository.license else []
    return {
        "_id": f"{type(repository).__name__.lower()}-{repository.pk}",
        "id": repository.repo_id,
        "modelId": repository.repo_id,
        "createdAt": _iso(repository.created),
        "private": False,
        "gated": False,
        "disabled": False,
        "downloads": repository.equips,
        "likes": repository.likes,
        "pipeline_tag": repository.pipeline_tag or None,
        "tags": list(dict.fromkeys([*tags, *extra, *repository.language_list])),
    }


def _library(card: str) -> str:
    return text_of(read_card(card).data.get("library_name")) or "transformers"


def _iso(moment: Any) -> str:
    return str(moment.strftime("%Y-%m-%dT%H:%M:%S.000Z"))
