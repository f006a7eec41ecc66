"""Pushes: what a client commits becomes a version that is inspected, and publishes itself.

    commit ─▶ uploading (weights incomplete) ─▶ superseded by a later push
       ├────▶ inspecting ─▶ published │ refused
       ├────▶ published (the weights are those of an inspected version)
       └────▶ a Refusal, and nothing is kept

The commit's row, its files and its inspection are written in one transaction: a process killed at
any moment leaves either nothing or a push that goes on by itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from typing import Any

from django.db import transaction
from django.utils import timezone

from vectors import services
from vectors.announced import MAX_FILES, Conflict, TooLarge
from vectors.commits import commit_id, commit_of, pushed_salt, tree_of
from vectors.describe import fields_from_card
from vectors.detect import base_of
from vectors.dropping import discard
from vectors.errors import Refusal, _
from vectors.files import WEIGHTS, called
from vectors.firstlook import (
    CARD,
    Find,
    FirstLook,
    card_text,
    check_names_and_shapes,
    look,
)
from vectors.models import Blob, Claim, Foundation, RepositoryFile, Vector, Version
from vectors.probes import CONTROLS, PROBES
from vectors.replacing import replaced
from vectors.storage.current import storage
from vectors.tensorfile.completeness import missing_file
from vectors.tensorfile.source import ByteSource
from vectors.twins import twin_among

ATTEMPTS = 5  # when others push to the same repository at the same moment
MAX_PENDING = 20  # pushes of a repository that wait for their inspection
READ = {"adapter_config.json", CARD, PROBES, CONTROLS}  # beside the weights, before all else
KEPT_INCOMPLETE = 5  # commits without whole weights that a history shows, the newest

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")

Repository = Vector | Claim


class Moved(Conflict):
    """The repository is not at the commit that the client built on."""


@dataclass(frozen=True)
class Put:
    """A file of the new commit; its bytes are the blob ``sha256``."""

    path: str
    sha256: str


@dataclass(frozen=True)
class Remove:
    """A file or a folder that the new commit does not have."""

    path: str
    folder: bool = False

    def covers(self, path: str) -> bool:
        """Whether it takes the file at ``path`` away."""
        own = self.path.strip("/")
        return path.startswith(f"{own}/") if self.folder else path == own


Change = Put | Remove


@dataclass(frozen=True)
class Examined:
    """What is known of a tree from names and headers alone."""

    missing: str = ""
    seen: FirstLook | None = None
    foundation: Foundation | None = None
    twin: Version | None = None
    card: str = ""

    def as_draft(self) -> dict[str, Any]:
        """What ``Version.draft`` keeps of it."""
        if self.seen is not None:
            return self.seen.as_draft()
        return {
            "missing": self.missing,
            "card": self.card,
            "fields": fields_from_card(self.card),
        }


def head_of(repository: Repository) -> Version | None:
    """The version that ``main`` is for its owner: the newest push or publication."""
    shown = repository.versions.exclude(
        state__in=[Version.State.REFUSED, Version.State.WITHDRAWN]
    ).exclude(commit="", number=None)
    newest = shown.order_by("-pk").first()
    if newest is None and isinstance(repository, Vector):
        return repository.current
    return newest


def push(
    repository: Repository,
    *,
    changes: Sequence[Change],
    message: str,
    onto: Version | None = None,
    exactly: bool = False,
    find: Find | None = None,
) -> Version | None:
    """Commit ``changes`` on top of ``main``; None when they change nothing.

    ``exactly`` asks for the commit to be on top of ``onto`` or not at all: Moved. ``find`` says
    which foundation the name of a base model means. Raises Problem, naming the file or the
    tensor, when the result can never become a version; nothing is kept then. Weights that others
    replace leave with the commit (``vectors.replacing``).
    """
    find = find or partial(base_of, user=repository.owner)
    for _attempt in range(ATTEMPTS):
        repository = _as_it_is_now(repository)
        head = head_of(repository)
        if exactly and head != onto:
            raise Moved(_("%(id)s has moved on in the meantime."), id=repository.repo_id)
        before = tree_of(head) if head else {}
        tree = apply(before, changes)
        put = {change.path for change in changes if isinstance(change, Put)}
        for path in replaced(before, tree, put):
            del tree[path]
        if tree == before:
            return None
        examined = examine(repository, tree, find)
        with transaction.atomic():
            if _hold(repository) and head_of(repository) == head:
                return _record(repository, head, tree, examined, message)
    raise Conflict(
        _("Others push to %(id)s at this very moment. Try again."), id=repository.repo_id
    )


# --- the tree --------------------------------------------------------------------------------


def apply(tree: Mapping[str, str], changes: Sequence[Change]) -> dict[str, str]:
    """The tree after ``changes``, in their order. Refusal where they make no sense."""
    result = dict(tree)
    for change in changes:
        if isinstance(change, Put):
            result[change.path] = change.sha256
            continue
        for path in [each for each in result if change.covers(each)]:
            del result[path]
    if len(result) > MAX_FILES:
        raise TooLarge(
            _("The repository would have %(count)d files, and %(limit)d are the most."),
            count=len(result),
            limit=MAX_FILES,
        )
    for path in result:
        parts = path.split("/")
        for depth in range(1, len(parts)):
            if "/".join(parts[:depth]) in result:
                raise Refusal(
                    _("%(file)s cannot be a file and a folder."), file="/".join(parts[:depth])
                )
    return result


def examine(repository: Repository, tree: Mapping[str, str], find: Find) -> Examined:
    """Look at the headers and the card of ``tree``. Raises Problem when it can never fit."""
    known = repository.foundation if isinstance(repository, Vector) else None
    with ExitStack() as stack:
        files: dict[str, ByteSource] = {}
        for path, sha256 in tree.items():
            if path.endswith(WEIGHTS) or path in READ:
                source = called(path, storage().open(sha256))
                files[path] = stack.enter_context(closing(source))
        missing = missing_file(files)
        if missing:
            return Examined(missing=missing, card=card_text(files))
        twin = twin_among(repository, tree, known) if isinstance(repository, Vector) else None
        seen = look(files, known=known, find=find)
        foundation = seen.guess.foundation
        if foundation is None:
            raise _no_foundation(seen)
        if twin is None:
            check_names_and_shapes(seen, foundation)
    return Examined(seen=seen, foundation=foundation, twin=twin)


def _no_foundation(seen: FirstLook) -> Refusal:
    if seen.guess.named_elsewhere:
        return Refusal(
            _(
                "%(base)s, the base model it names, is not a foundation here, and no other has "
                "tensors of these names and shapes. Ask the keeper of this shop to add it."
            ),
            base=seen.guess.named_elsewhere,
        )
    return Refusal(
        _(
            "No foundation here has tensors of these names and shapes. Name the base model in the "
            "card (base_model), or ask the keeper of this shop to add it."
        )
    )


# --- the rows --------------------------------------------------------------------------------


def _as_it_is_now(repository: Repository) -> Repository:
    """A claim becomes a vector when its first version is published, also while others push."""
    key = {"namespace": repository.namespace, "name": repository.name}
    vector = Vector.objects.filter(**key).select_related("foundation", "current", "owner").first()
    return vector or repository


def _hold(repository: Repository) -> bool:
    """Let nobody else push to it until the transaction ends; False when it is gone."""
    held = type(repository)._default_manager.select_for_update().filter(pk=repository.pk)
    return held.first() is not None


def _record(
    repository: Repository,
    head: Version | None,
    tree: Mapping[str, str],
    examined: Examined,
    message: str,
) -> Version:
    waiting = repository.versions.filter(state=Version.State.INSPECTING).exclude(commit="")
    if waiting.count() >= MAX_PENDING:
        raise Conflict(
            _(
                "%(count)d pushes to %(id)s wait for their inspection. Let them come to an end "
                "first."
            ),
            count=MAX_PENDING,
            id=repository.repo_id,
        )
    blobs = {blob.pk: blob for blob in _held_blobs(set(tree.values()))}
    parent = commit_of(head) if head else repository.repo_id
    salt = pushed_salt(repository.repo_id, message, timezone.now())
    version = Version.objects.create(
        owner=repository.owner,
        vector=repository if isinstance(repository, Vector) else None,
        claim=repository if isinstance(repository, Claim) else None,
        state=Version.State.UPLOADING if examined.missing else Version.State.RECEIVED,
        commit=commit_id(tree, parent=parent, salt=salt),
        message=_one_line(message),
        form=examined.seen.form if examined.seen else "",
        foundation=examined.foundation,
        draft=examined.as_draft(),
        nbytes=sum(blobs[sha256].size for sha256 in tree.values()),
    )
    RepositoryFile.objects.bulk_create(
        RepositoryFile(version=version, path=path, blob=blobs[sha256])
        for path, sha256 in tree.items()
    )
    if examined.twin is not None:
        services.move(version, Version.State.INSPECTING)
        services.accept_like(version, examined.twin)
        services.publish(version)
    elif examined.foundation is not None:
        services.request_inspection(version, foundation=examined.foundation)
    _forget_incomplete(repository)
    return version


def _one_line(message: str) -> str:
    return " ".join(_UNPRINTABLE.sub(" ", message).split())[:200]


def _held_blobs(shas: set[str]) -> list[Blob]:
    """The blobs, which nobody drops as unreferenced until the transaction ends."""
    found = list(Blob.objects.select_for_update().filter(pk__in=shas).order_by("pk"))
    if len(found) < len(shas):
        raise Conflict(
            _("A file of this commit was given up in the meantime. Push again: it is sent anew.")
        )
    return found


def _forget_incomplete(repository: Repository) -> None:
    incomplete = repository.versions.filter(state=Version.State.UPLOADING).exclude(commit="")
    for version in incomplete.order_by("-pk")[KEPT_INCOMPLETE:]:
        discard(version)
