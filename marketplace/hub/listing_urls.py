"""Addresses of the hub protocol. Listing, likes, and the small questions clients ask."""

from __future__ import annotations

from django.urls import URLPattern, path

from marketplace.hub import asides, likes, listing
from marketplace.hub.converters import ID

urlpatterns: list[URLPattern] = [
    path("api/models", listing.list_models, name="api_models"),
    path("api/models-tags-by-type", asides.tags_by_type),
    path(f"{ID}/like", likes.like),
    path(f"{ID}/likers", likes.likers),
    path(f"{ID}/discussions", asides.discussions),
    path(f"{ID}/discussions/<path:rest>", asides.absent),
    path("api/users/<str:username>/likes", likes.liked),
    path("api/users/<str:username>/overview", asides.user_overview),
    path("api/organizations/<str:name>/overview", asides.organization_overview),
    path("api/settings/repositories", asides.own_repositories),
    path("api/datasets", asides.nothing),
    path("api/spaces", asides.nothing),
    path("api/collections", asides.nothing),
    path("api/collections/<path:rest>", asides.absent),
    path("api/agent-harnesses", asides.absent),
]
