"""Addresses of the hub protocol. Equip by name."""

from __future__ import annotations

from django.urls import URLPattern

urlpatterns: list[URLPattern] = []
