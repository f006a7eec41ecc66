"""Addresses of the hub protocol. Listing, likes, and the small questions clients ask."""

from __future__ import annotations

from django.urls import URLPattern

urlpatterns: list[URLPattern] = []
