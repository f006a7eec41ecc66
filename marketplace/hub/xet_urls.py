"""Addresses of the hub protocol. Xet ingest: what the newest clients upload weights with."""

from __future__ import annotations

from django.urls import URLPattern

urlpatterns: list[URLPattern] = []
