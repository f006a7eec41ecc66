"""Addresses of the hub protocol. Signing in, tokens, settings of repositories, access to them."""

from __future__ import annotations

from django.urls import URLPattern

urlpatterns: list[URLPattern] = []
