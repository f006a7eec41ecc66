"""Addresses of the hub protocol. Xet ingest: what the newest clients upload weights with."""

from __future__ import annotations

from django.urls import URLPattern, path

from marketplace.hub.converters import ID
from marketplace.hub.xet import views

CAS = "xet/<int:user>/<int:epoch>"

urlpatterns: list[URLPattern] = [
    path(f"{ID}/xet-write-token/<path:rev>", views.write_token),
    path(f"{CAS}/v1/xorbs/default/<str:name>", views.receive_xorb),
    path(f"{CAS}/v1/shards", views.receive_shard),
    path(f"{CAS}/v2/shards", views.receive_shard_telling),
    path(f"{CAS}/v1/chunks/<path:rest>", views.not_here),
    path(f"{CAS}/v1/xorb-grants/<path:rest>", views.not_here),
    path(f"{CAS}/v1/telemetry", views.not_here),
    path("v1/telemetry", views.not_here),  # where the clients of today send it
]
