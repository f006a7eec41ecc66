"""Addresses of the hub protocol. Pushing: creating repositories, LFS uploads, commits."""

from __future__ import annotations

from django.urls import URLPattern, path

from marketplace.hub import lfs, naming, owning, writing
from marketplace.hub.converters import ID

urlpatterns: list[URLPattern] = [
    path("api/repos/create", owning.create),
    path("api/repos/delete", owning.delete),
    path("api/repos/move", owning.move),
    path("api/validate-yaml", owning.validate_yaml),
    path(f"{ID}/preupload/<path:rev>", writing.preupload),
    path(f"{ID}/commit/<path:rev>", writing.commit),
    path(f"{ID}/branch/<path:name>", naming.branch),
    path(f"{ID}/tag/<path:name>", naming.tag),
    path("<repo:repo_id>.git/info/lfs/objects/batch", lfs.batch),
    path("uploads/<uuid:pk>/lfs", lfs.complete, name="lfs_complete"),
    path("uploads/<uuid:pk>/verify", lfs.verify, name="lfs_verify"),
    path("<str:namespace>/<str:name>/tree/<path:rest>", writing.files_page),
    path("<str:namespace>/<str:name>/blob/<path:rest>", writing.files_page),
    path("<str:namespace>/<str:name>/commit/<str:oid>", writing.commit_page, name="commit"),
]
