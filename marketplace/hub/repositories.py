"""Foundations, vectors, equipped models and repositories still empty, as clients see them.

``find`` answers with the one kind of thing the views know: a repository that has a history of
snapshots (commits with files), some of which have names (branches and tags).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Protocol

from marketplace.hub.errors import (
    Renamed,
    forbidden,
    gated,
    repo_not_found,
    revision_not_found,
)
from marketplace.hub.files import HubFile, file_of, written_file
from marketplace.hub.requests import Caller
from vectors.access import may_edit, may_read, may_see, seen_of
from vectors.commits import commit_id, commit_of
from vectors.detect import by_name
from vectors.errors import _
from vectors.models import Access, Claim, Foundation, Ref, Vector, Version, Visibility
from vectors.renaming import once_called

MAIN = "main"
GITATTRIBUTES = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"


@dataclass(frozen=True)
class Snapshot:
    """One commit. ``files`` are listed on demand, because most callers want the name alone."""

    commit: str
    message: str
    created: datetime
    author: str
    source: Foundation | Version | None = None
    written: tuple[HubFile, ...] = field(default=(), repr=False)
    repository: Repository | None = None  # where it is not the one that was asked: a recipe's

    @cached_property
    def files(self) -> dict[str, HubFile]:
        """Files by path, in the order of their paths."""
        found = {file.path: file for file in self.written}
        if self.source is not None:
            for row in self.source.files.select_related("blob"):
                found[row.path] = file_of(self.source, row)
        return dict(sorted(found.items()))


class Repository(Protocol):
    """What the views of the protocol ask of a repository."""

    id: str
    kind: str
    private: bool
    gated: str | bool
    caller: Caller

    def head(self) -> Snapshot:
        """The newest state that the caller sees."""

    def history(self) -> list[Snapshot]:
        """Every commit the caller sees, newest first."""

    def names(self) -> dict[str, tuple[str, str]]:
        """Kind (``branch`` or ``tag``) and commit by name; ``main`` is among them."""

    def check_readable(self, snapshot: Snapshot) -> None:
        """Raise HubError unless the caller may have the bytes of ``snapshot``."""

    def check_writable(self) -> None:
        """Raise HubError unless the caller may push."""


def at(repository: Repository, revision: str) -> Snapshot:
    """The snapshot that a branch, a tag, a version, a commit or a recipe on the repository names.
    Raises RevisionNotFound."""
    if revision in ("", MAIN):
        return repository.head()
    names = repository.names()
    wanted = names[revision][1] if revision in names else revision
    for snapshot in repository.history():
        if snapshot.commit == wanted:
            return snapshot
    from marketplace.hub.spelling import recipe_at

    return recipe_at(repository, revision)


def split_revision(repository: Repository, segments: list[str]) -> tuple[str, str]:
    """Revision and path of an address whose revision may hold slashes that came decoded.

    An encoded slash stays inside one segment; where only the decoded address is known the longest
    name that fits counts.
    """
    if len(segments) > 2 and "/" not in segments[0]:
        names = repository.names()
        for length in range(min(len(segments) - 1, 8), 1, -1):
            name = "/".join(segments[:length])
            if name in names:
                return name, "/".join(segments[length:])
    return segments[0], "/".join(segments[1:])


# --- the kinds -------------------------------------------------------------------------------


class FoundationRepository:
    """A foundation: one commit, for everyone."""

    kind = "foundation"
    private = False
    gated: str | bool = False

    def __init__(self, row: Foundation, caller: Caller) -> None:
        self.row, self.caller, self.id = row, caller, row.repo_id

    def head(self) -> Snapshot:
        message = f"Foundation {self.row.label}"
        return Snapshot(
            commit_of(self.row), message, self.row.created, self.row.namespace, self.row
        )

    def history(self) -> list[Snapshot]:
        return [self.head()]

    def names(self) -> dict[str, tuple[str, str]]:
        return {MAIN: ("branch", commit_of(self.row))}

    def check_readable(self, snapshot: Snapshot) -> None:
        return

    def check_writable(self) -> None:
        raise forbidden(
            _("%(id)s is a foundation: it never changes. Push to a repository of your own.")
            % {"id": self.id}
        )


GATED: dict[str, str | bool] = {
    Access.OPEN: False,
    Access.AUTO: "auto",
    Access.MANUAL: "manual",
    Access.PAID: "manual",
}


# Of a version: much text that no commit tells, and every request reads all versions.
_UNTOLD = ("card", "draft", "verdict", "layers", "sigil", "abilities", "examples", "refusal")


class VectorRepository:
    """A vector: a commit for each version the caller sees, and for its owner each push."""

    kind = "vector"

    def __init__(self, row: Vector, caller: Caller) -> None:
        self.row, self.caller, self.id = row, caller, row.repo_id
        self.private = row.visibility == Visibility.PRIVATE
        self.gated = GATED[Access(row.access)]

    @cached_property
    def _versions(self) -> list[Version]:
        rows = self.row.versions.exclude(state=Version.State.REFUSED).exclude(
            commit="", number=None
        )
        versions = list(rows.order_by("-pk").select_related("owner").defer(*_UNTOLD))
        for version in versions:
            version.vector = self.row
        return seen_of(self.caller.user, self.row, versions)

    def _snapshot(self, version: Version) -> Snapshot:
        message = version.message or version.changes
        if not message:
            message = f"Version {version.number}" if version.number else _("Upload")
        moment = version.published or version.created
        author = version.owner.get_username()
        return Snapshot(commit_of(version), message, moment, author, version)

    def _head(self) -> Version | None:
        mine = may_edit(self.caller.user, self.row)
        current = self.row.current
        if not mine:
            return current
        shelved = [each for each in self._versions if each.state != Version.State.WITHDRAWN]
        return shelved[0] if shelved else current

    def head(self) -> Snapshot:
        version = self._head()
        if version is None:
            raise revision_not_found(self.id, MAIN)
        return self._snapshot(version)

    def history(self) -> list[Snapshot]:
        return [self._snapshot(version) for version in self._versions]

    def names(self) -> dict[str, tuple[str, str]]:
        seen = {version.pk: version for version in self._versions}
        named = {
            f"v{version.number}": ("tag", commit_of(version))
            for version in seen.values()
            if version.number
        }
        for ref in Ref.objects.filter(vector=self.row, version__in=seen):
            named[ref.name] = (ref.kind, commit_of(seen[ref.version_id]))
        return {**named, MAIN: ("branch", self.head().commit)}

    def check_readable(self, snapshot: Snapshot) -> None:
        version = snapshot.source
        assert isinstance(version, Version)
        if may_read(self.caller.user, version):
            return
        raise gated(self._how_to_get_it(), signed_in=self.caller.signed_in)

    def _how_to_get_it(self) -> str:
        how = {
            Access.AUTO: _("Access to %(id)s is given to everyone who asks."),
            Access.MANUAL: _("Access to %(id)s is given by its owner, %(owner)s, who can be asked"),
            Access.PAID: _(
                "%(id)s is for sale. Until there is a till here its owner, %(owner)s, lets people "
                "in and can be asked"
            ),
        }[Access(self.row.access)].rstrip(".")
        sentence = how % {"id": self.id, "owner": self.row.owner.get_username()}
        sign_in = "" if self.caller.signed_in else _(" Sign in first (`hf auth login`).")
        return f"{sentence}: {{endpoint}}/{self.id}{sign_in}"

    def check_writable(self) -> None:
        if not may_edit(self.caller.user, self.row):
            raise forbidden(_("%(id)s is not yours: only its owner pushes.") % {"id": self.id})


class ClaimRepository:
    """A repository in which nothing is published yet: known to its owner alone."""

    kind = "claim"

    def __init__(self, row: Claim, caller: Caller) -> None:
        self.row, self.caller, self.id = row, caller, row.repo_id
        self.private = row.visibility == Visibility.PRIVATE
        self.gated: str | bool = GATED[Access(row.access)]

    def _first(self) -> Snapshot:
        files = (written_file(".gitattributes", GITATTRIBUTES),)
        tree = {file.path: file.sha256 for file in files}
        commit = commit_id(tree, salt=f"claim {self.row.pk} {self.id}")
        author = self.row.owner.get_username()
        return Snapshot(commit, _("Initial commit"), self.row.created, author, written=files)

    def history(self) -> list[Snapshot]:
        versions = self.row.versions.exclude(state=Version.State.REFUSED).exclude(commit="")
        pushed = [
            Snapshot(version.commit, version.message, version.created, self.row.namespace, version)
            for version in versions.order_by("-pk")
        ]
        return [*pushed, self._first()]

    def head(self) -> Snapshot:
        return self.history()[0]

    def names(self) -> dict[str, tuple[str, str]]:
        return {MAIN: ("branch", self.head().commit)}

    def check_readable(self, snapshot: Snapshot) -> None:
        return

    def check_writable(self) -> None:
        return


def find(repo_id: str, caller: Caller) -> Repository:
    """The repository ``repo_id``, if the caller may know of it. Raises RepoNotFound, or Renamed
    where it is another one's former name.

    ``equipped/…`` and ``equip/…`` are recipes; a bare name is a foundation's, where it is unique.
    """
    namespace, slash, name = repo_id.partition("/")
    found: Repository | None = None
    if not slash:
        foundation = by_name(namespace)
        found = FoundationRepository(foundation, caller) if foundation else None
    elif namespace in ("equipped", "equip"):
        from marketplace.hub.equipped import find_equipped

        return find_equipped(namespace, name, caller)
    else:
        found = next(_candidates(namespace, name, caller), None)
        if found is None:
            _check_renamed(namespace, name, caller)
    if found is None:
        raise repo_not_found(repo_id, signed_in=caller.signed_in)
    return found


def _candidates(namespace: str, name: str, caller: Caller) -> Iterator[Repository]:
    key = {"namespace__iexact": namespace, "name__iexact": name}
    foundation = Foundation.objects.filter(**key).defer("manifest", "card_html").first()
    if foundation is not None:
        yield FoundationRepository(foundation, caller)
    vectors = Vector.objects.select_related("owner", "current", "foundation")
    # As it is written first: an index knows that, and for other cases all vectors are looked at.
    exact = vectors.filter(namespace=namespace, name=name).first()
    vector = exact or vectors.filter(**key).first()
    if vector is not None and vector.current is not None:
        vector.current.vector = vector
        if may_see(caller.user, vector.current):
            yield VectorRepository(vector, caller)
    claim = Claim.objects.filter(**key).select_related("owner").first()
    if claim is not None and caller.signed_in and caller.user.pk == claim.owner_id:
        yield ClaimRepository(claim, caller)


def _check_renamed(namespace: str, name: str, caller: Caller) -> None:
    vector = once_called(namespace, name)
    if vector is not None and vector.current is not None and may_see(caller.user, vector.current):
        raise Renamed(f"{namespace}/{name}", vector.repo_id)
