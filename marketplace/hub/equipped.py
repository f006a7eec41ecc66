"""Equipped models as repositories: one commit, whose weights are computed while they leave."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from functools import partial

from marketplace.hub.errors import forbidden, gated, repo_not_found
from marketplace.hub.files import HubFile, stored_file, written_file
from marketplace.hub.repositories import MAIN, Repository, Snapshot
from marketplace.hub.requests import Caller
from merging.models import EquippedModel
from merging.repository import Opened
from merging.services import may_see_recipe, missing_grants
from vectors.commits import commit_id
from vectors.errors import _


class EquippedRepository:
    """A recipe: the commit is named by everything its files are made of."""

    kind = "equipped"
    private = False
    gated: str | bool = False

    def __init__(self, row: EquippedModel, caller: Caller, repo_id: str = "") -> None:
        self.row, self.caller, self.id = row, caller, repo_id or row.repo_id

    def head(self) -> Snapshot:
        files = equipped_files(self.row)
        tree = {file.path: file.sha256 or file.etag for file in files}
        commit = commit_id(tree, salt=self.row.hash)
        author = self.row.created_by.get_username() if self.row.created_by else "armory"
        return Snapshot(commit, _("Equipped"), self.row.created, author, written=files)

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
    repo_id = f"{namespace}/{name}"
    rows = EquippedModel.objects.select_related("foundation", "target__vector", "created_by")
    row = rows.prefetch_related("terms__version__vector").filter(slug=name).first()
    if namespace != "equipped" or row is None or not may_know(row, caller):
        raise repo_not_found(repo_id, signed_in=caller.signed_in)
    return EquippedRepository(row, caller)


def may_know(row: EquippedModel, caller: Caller) -> bool:
    """Whether the caller may know that the recipe exists: of each of its parts they do."""
    return may_see_recipe(row, caller.user)


def equipped_files(row: EquippedModel) -> tuple[HubFile, ...]:
    """Every file of the equipped model, sizes from headers alone."""
    with closing(Opened(row)) as opened:
        found = list(opened.files.values())
    files = []
    for file in found:
        if file.blob is not None:
            files.append(stored_file(file.path, file.blob))
        elif file.content is not None:
            files.append(written_file(file.path, file.content))
        else:
            read = partial(_read, row, file.path)
            files.append(HubFile(file.path, file.size, file.etag, read))
    return tuple(files)


def _read(row: EquippedModel, path: str, start: int, stop: int) -> Iterator[bytes]:
    return Opened(row).read(path, start, stop)
