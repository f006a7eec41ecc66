"""Addresses of the hub protocol. Pushing: creating repositories, LFS uploads, commits."""

from __future__ import annotations

from django.urls import URLPattern

urlpatterns: list[URLPattern] = []
