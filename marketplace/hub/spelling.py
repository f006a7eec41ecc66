"""Recipes that an address spells (see ``merging.spelling``), with answers that clients understand.

Everything resolves to the recipe's own commit, so that what a client keeps is kept under what it
is.
"""

from __future__ import annotations

from marketplace.hub.errors import HubError, gated, revision_not_found
from marketplace.hub.repositories import Repository, Snapshot
from marketplace.hub.requests import Caller
from merging.models import EquippedModel
from merging.naming import NotGranted
from merging.services import equip_expression
from merging.spelling import SUM, read_id
from vectors.errors import explain
from vectors.models import Version
from vectors.tensorfile.errors import Problem


def recipe_at(repository: Repository, revision: str) -> Snapshot:
    """What ``revision`` of a model means that is none of its names: a recipe on it, by its
    expression or by its commit. Raises RevisionNotFound, whose sentence says what is wrong."""
    from marketplace.hub.equipped import EquippedRepository, find_commit

    targets = _digests(repository)
    written = SUM.fullmatch(revision) if targets else None
    if written:
        row = _row_of_revision(repository, *written.groups())
        if row.recipe.target in targets:
            return EquippedRepository(row, repository.caller, repository.id).head()
    elif targets:
        found = find_commit(revision, repository.caller)
        if found is not None and found[0].recipe.target in targets:
            return found[1]
    raise revision_not_found(repository.id, revision)


def _digests(repository: Repository) -> set[str]:
    """The checkpoints of a repository that vectors can be put on."""
    if repository.kind == "foundation":
        return {repository.head().source.fingerprint}  # type: ignore[union-attr]
    sources = (snapshot.source for snapshot in repository.history())
    return {each.digest for each in sources if isinstance(each, Version) and each.digest}


def _row_of_revision(repository: Repository, version: str | None, text: str) -> EquippedModel:
    caller = repository.caller
    on = f"{repository.id}@{version}" if version else repository.id
    try:
        return equip_expression(text.replace("−", " - "), on=on, user=caller.user)
    except NotGranted as problem:
        raise gated(explain(problem), signed_in=caller.signed_in) from problem
    except Problem as problem:
        raise HubError(404, explain(problem), code="RevisionNotFound") from problem


def row_of_id(name: str, caller: Caller) -> EquippedModel:
    """The recipe that ``equip/{name}`` spells. Raises RepoNotFound, whose sentence says why."""
    try:
        return read_id(name, caller.user)
    except NotGranted as problem:
        raise gated(explain(problem), signed_in=caller.signed_in) from problem
    except Problem as problem:
        status = 404 if caller.signed_in else 401
        raise HubError(status, explain(problem), code="RepoNotFound") from problem
