"""The front door, and the page of a maker."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from django.contrib.auth import get_user_model
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from merging.build_context import ready_among
from merging.formula import target_part, term_part
from merging.models import EquippedModel
from merging.views import formula_parts
from vectors.access import may_see
from vectors.catalogue import shelves
from vectors.draft_views import pushed_rows
from vectors.models import Access, Claim, Foundation, Vector


@require_safe
def home(request: HttpRequest) -> HttpResponse:
    """What this is, a recipe that works, the shelves."""
    published = Vector.objects.published()
    groups = shelves("equipped")
    return render(
        request,
        "marketplace/home.html",
        {
            "shelves": groups,
            "example": example_parts(groups),
            "vector_count": published.count(),
            "foundation_count": Foundation.objects.count(),
            "newest": published.for_cards().sorted_by("new")[:4],
        },
    )


def example_parts(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A formula of vectors that everybody may equip, for the front page: two learned, one
    forgotten."""
    groups = [
        {**group, "vectors": [each for each in group["vectors"] if each.access == Access.OPEN]}
        for group in groups
    ]
    first = next((group for group in groups if group["vectors"]), None)
    if first is None:
        return []
    coefficients = map(Decimal, ("1", "0.7", "-0.5"))
    return [
        target_part(first["foundation"]),
        *(term_part(c, vector) for vector, c in zip(first["vectors"], coefficients, strict=False)),
    ]


@require_safe
def profile(request: HttpRequest, namespace: str) -> HttpResponse:
    """A maker's vectors and foundations; their own drafts and recipes for themselves."""
    user = get_user_model().objects.filter(username__iexact=namespace).first()
    foundations = Foundation.objects.with_counts().filter(namespace__iexact=namespace)
    if user is None and not foundations.exists():
        raise Http404
    own = user is not None and request.user.is_authenticated and request.user.pk == user.pk
    vectors = Vector.objects.filter(owner=user) if user else Vector.objects.none()
    if not own:
        vectors = vectors.visible_to(request.user)
    recipes: list[EquippedModel] = []
    if own:
        recipes = list(
            EquippedModel.objects.filter(history__user=user)
            .select_related("foundation", "target__vector")
            .prefetch_related("terms__version__vector")
            .order_by("-history__created")[:20]
        )
    ready = ready_among(recipes)
    context = {
        "namespace": user.get_username() if user else namespace,
        "maker": user,
        "own": own,
        "vectors": vectors.for_cards().sorted_by("new"),
        "foundations": foundations.defer("manifest", "card", "card_html"),
        "given": Vector.objects.visible_to(user).filter(grants__user=user).for_cards()
        if own
        else [],
        "pushed": pushed_rows(user) if own else [],
        "claims": Claim.objects.filter(owner=user, versions=None) if own else [],
        "likes": sum(vector.likes for vector in vectors),
        "equips": sum(vector.equips for vector in vectors),
        "downloads": sum(vector.downloads for vector in vectors),
        "recipes": [
            {
                "row": row,
                "parts": formula_parts(row) if may_see_parts(row, user) else [],
                "ready": row.pk in ready,
            }
            for row in recipes
        ],
    }
    return render(request, "marketplace/profile.html", context)


def may_see_parts(row: EquippedModel, user: Any) -> bool:
    """Whether the formula tells ``user`` of nothing that is private by now."""
    versions = [term.version for term in row.terms.all()]
    if row.target is not None:
        versions.append(row.target)
    return all(may_see(user, version) for version in versions)
