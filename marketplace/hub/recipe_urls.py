"""Addresses of the hub protocol. Equip by name."""

from __future__ import annotations

from django.urls import URLPattern, path

from marketplace.hub import recipes

urlpatterns: list[URLPattern] = [
    path("api/recipes", recipes.recipes, name="api_recipes"),
    path("equip/<str:name>", recipes.spelled, name="spelled"),
]
