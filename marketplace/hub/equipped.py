"""Equipped models as repositories: one commit, whose weights are computed while they leave."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from functools import partial
from threading import Lock

from django.conf import settings

from marketplace.hub.errors import forbidden, gated, repo_not_found
from marketplace.hub.files import HubFile, stored_file, written_file
from marketplace.hub.repositories import MAIN, Repository, Snapshot
from marketplace.hub.requests import Caller
from marketplace.hub.spelling import row_of_id
from merging.build_reading import built_file, direct_url
from merging.engine.kernels import KERNEL
from merging.hashes import known_hashes
from merging.models import SLUG_DIGITS, EquippedModel
from merging.repository import Opened, read_weights
from merging.services import may_see_recipe, missing_grants
from merging.spelling import SPELLED
from vectors.commits import commit_id
from vectors.errors import _

LISTINGS = 128  # of equipped models, kept by each process, with the headers of their weights


class EquippedRepository:
    """A recipe. Its commit is named by everything its files are made of, and begins with the digits
    of its address, so that the recipe is found again by a commit alone."""

    kind = "equipped"
    private = False
    gated: str | bool = False

    def __init__(self, row: EquippedModel, caller: Caller, repo_id: str = "") -> None:
        self.row, self.caller, self.id = row, caller, repo_id or row.repo_id

    def head(self) -> Snapshot:
        files = equipped_files(self.row)
        author = self.row.created_by.get_username() if self.row.created_by else "armory"
        return Snapshot(
            commit_of_files(self.row, files),
            _("Equipped"),
            self.row.created,
            author,
            written=files,
            repository=self,
        )

    def history(self) -> list[Snapshot]:
        return [self.head()]

    def names(self) -> dict[str, tuple[str, str]]:
        return {MAIN: ("branch", self.head().commit)}

    def check_readable(self, snapshot: Snapshot) -> None:
        missing = missing_grants(self.row, self.caller.user)
        if missing:
            names = ", ".join(f"{{endpoint}}/{version.vector}" for version in missing)
            raise gated(
                _("To equip this you need access to each of its vectors. Missing: ") + names,
                signed_in=self.caller.signed_in,
            )

    def check_writable(self) -> None:
        raise forbidden(_("%(id)s is a recipe: it never changes.") % {"id": self.id})


def find_equipped(namespace: str, name: str, caller: Caller) -> Repository:
    """The recipe that the address names by its slug (``equipped/…``) or spells (``equip/…``)."""
    if namespace == SPELLED:
        return EquippedRepository(row_of_id(name, caller), caller, f"{SPELLED}/{name}")
    row = find_row(name)
    if row is None or not may_know(row, caller):
        raise repo_not_found(f"{namespace}/{name}", signed_in=caller.signed_in)
    return EquippedRepository(row, caller)


def find_row(slug: str) -> EquippedModel | None:
    """The recipe whose address has ``slug``, with what its files are listed from."""
    rows = EquippedModel.objects.select_related("foundation", "target__vector", "created_by")
    rows = rows.defer("foundation__manifest", "foundation__card_html", "foundation__search_text")
    return rows.prefetch_related("terms__version__vector").filter(slug=slug).first()


def find_commit(commit: str, caller: Caller) -> tuple[EquippedModel, Snapshot] | None:
    """The recipe that has ``commit``, at this commit, if the caller may know of it."""
    row = find_row(commit[:SLUG_DIGITS]) if len(commit) == 40 else None
    if row is None or not may_know(row, caller):
        return None
    snapshot = EquippedRepository(row, caller).head()
    return (row, snapshot) if snapshot.commit == commit else None


def may_know(row: EquippedModel, caller: Caller) -> bool:
    """Whether the caller may know that the recipe exists: of each of its parts they do."""
    return may_see_recipe(row, caller.user)


def commit_of_files(row: EquippedModel, files: tuple[HubFile, ...]) -> str:
    """The commit of the recipe's files. Computed ones count by their ETag: their hash becomes known
    later, and a commit never changes."""
    tree = {file.path: file.etag for file in files}
    return row.slug + commit_id(tree, salt=row.hash)[SLUG_DIGITS:]


_listings: OrderedDict[tuple[int, datetime, str, str], tuple[HubFile, ...]] = OrderedDict()
_lock = Lock()


def equipped_files(row: EquippedModel) -> tuple[HubFile, ...]:
    """Every file of the equipped model, sizes from headers alone.

    Recipe, versions and the kernel never change, what the card says hardly ever, so a listing is
    kept: only the hashes of computed files are looked up anew.
    """
    key = (row.pk, row.created, KERNEL, str(row.report.get("parts")))
    with _lock:
        files = _listings.get(key)
        if files is not None:
            _listings.move_to_end(key)
    if files is None:
        files = tuple(_listed(row))
        with _lock:
            _listings[key] = files
            while len(_listings) > LISTINGS:
                _listings.popitem(last=False)
    hashes = known_hashes(file.etag for file in files if not file.sha256)
    return tuple(replace(file, sha256=file.sha256 or hashes.get(file.etag, "")) for file in files)


def _listed(row: EquippedModel) -> Iterator[HubFile]:
    with closing(Opened(row)) as opened:
        for file in opened.files.values():
            if file.blob is not None:
                yield stored_file(file.path, file.blob)
            elif file.content is not None:
                yield written_file(file.path, file.content)
            else:
                assert file.virtual is not None
                read = partial(_read, row.pk, file.path, file.etag, file.virtual.header)
                direct = partial(_direct, row.pk, file.etag)
                yield HubFile(file.path, file.size, file.etag, read, direct=direct)


def _read(pk: int, path: str, etag: str, header: bytes, start: int, stop: int) -> Iterator[bytes]:
    if stop <= len(header):  # what tensors there are is asked more often than what is in them
        return iter([header[start:stop]])
    return read_weights(pk, path, etag, start, stop)


def _direct(pk: int, etag: str, file_name: str) -> str | None:
    if not settings.ARMORY_S3_BUCKET:  # a folder hands out nothing: no question for nothing
        return None
    built = built_file(pk, etag)
    return None if built is None else direct_url(built, file_name)
