"""Addresses of what exists. Repository ids are addresses, as on every model hub."""

from django.urls import path

from vectors import draft_views, sharing_views, views

urlpatterns = [
    path("vectors", views.catalogue, name="catalogue"),
    path("foundations", views.foundations, name="foundations"),
    path("upload", draft_views.upload, name="upload"),
    path("drafts/<int:pk>", draft_views.draft, name="draft"),
    path("drafts/<int:pk>/progress", draft_views.draft_progress, name="draft_progress"),
    path("drafts/<int:pk>/inspect", draft_views.draft_inspect, name="draft_inspect"),
    path("drafts/<int:pk>/publish", draft_views.draft_publish, name="draft_publish"),
    path("drafts/<int:pk>/preview", draft_views.draft_preview, name="draft_preview"),
    path("drafts/<int:pk>/discard", draft_views.draft_discard, name="draft_discard"),
    path("covers/<slug:sha256>.webp", views.cover, name="cover"),
]

SETTINGS = "<str:namespace>/<str:name>/settings"

# Last of all addresses: any two words may be a repository.
repository_patterns = [
    path("<str:namespace>/<str:name>/like", views.like, name="like"),
    path("<str:namespace>/<str:name>/cover", views.change_cover, name="change_cover"),
    path("<str:namespace>/<str:name>/shelf", views.change_shelf, name="change_shelf"),
    path("<str:namespace>/<str:name>/ask", sharing_views.ask, name="ask_access"),
    path(f"{SETTINGS}/give", sharing_views.give, name="give_access"),
    path(f"{SETTINGS}/take-back", sharing_views.take_back, name="take_back_access"),
    path(f"{SETTINGS}/requests", sharing_views.answer, name="answer_request"),
    path(SETTINGS, sharing_views.settings, name="vector_settings"),
    path("<str:namespace>/<str:name>", views.repo, name="repo"),
]
