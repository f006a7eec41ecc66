"""Recipes as addresses that people read and type, wherever a client takes the name of a model.

    equip/MODEL_plus_NAME_minus_0.5_NAME    as a repository id, with the signs that ids may have
    MODEL at revision +NAME-sum             as a revision: any expression that begins with a sign

In an id a name is written as it is, with its owner (``ann.spam-filter``) where others have it too,
and with a version (``spam-filter_v2``) where the current one is not meant. Everything resolves to
the recipe's own commit, so that what a client keeps is kept under what it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from decimal import Decimal

from django.contrib.auth.models import AnonymousUser
from django.db.models import Q

from marketplace.hub.errors import HubError, gated, revision_not_found
from marketplace.hub.repositories import Repository, Snapshot
from marketplace.hub.requests import Caller
from merging.engine.errors import RecipeError, _
from merging.engine.expression_write import write_expression
from merging.engine.recipe import parse_coefficient
from merging.models import EquippedModel
from merging.naming import NotGranted, check_target, granted
from merging.services import equip_expression, make_equipped
from vectors.errors import explain
from vectors.models import Foundation, Vector, Version
from vectors.tensorfile.errors import Problem

MAX_ID = 96  # characters of a repository's name that clients take
_SIGNS = re.compile(r"_(plus|minus)_")
_FACTOR = re.compile(r"(\d+(?:\.\d+)?)_(.+)", re.ASCII)
_VERSION = re.compile(r"(.+)_v(\d{1,9})", re.ASCII)


# --- revisions -------------------------------------------------------------------------------


def recipe_at(repository: Repository, revision: str) -> Snapshot:
    """What ``revision`` of a model means that is none of its names: a recipe on it, by its
    expression or by its commit. Raises RevisionNotFound, whose sentence says what is wrong."""
    from marketplace.hub.equipped import EquippedRepository, find_commit

    targets = _digests(repository)
    text = revision.strip()
    if targets and text[:1] in ("+", "-", "−"):
        row = _row_of_revision(repository, text)
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


def _row_of_revision(repository: Repository, text: str) -> EquippedModel:
    caller = repository.caller
    try:
        return equip_expression(text.replace("−", " - "), on=repository.id, user=caller.user)
    except NotGranted as problem:
        raise gated(explain(problem), signed_in=caller.signed_in) from problem
    except Problem as problem:
        raise HubError(404, explain(problem), code="RevisionNotFound") from problem


def revision_of(row: EquippedModel) -> str:
    """The recipe as a revision of what it is put on."""
    names = {row.foundation.fingerprint: row.foundation.repo_id}
    if row.target is not None:
        names[row.target.digest] = _typed(row.target)
    for term in row.terms.all():
        names.setdefault(term.version.digest, _typed(term.version))
    recipe = row.recipe
    target, base = names[recipe.target], names[recipe.foundation]
    text = write_expression(recipe, names.__getitem__).removeprefix(target).strip()
    if '"' not in text:  # else it may stand in a rule
        for said, short in (
            (f", on={target}", ""),
            (f", base={base}", ""),
            ("+ ", "+"),
            (" +", "+"),
        ):
            text = text.replace(said, short)
    return text if text.startswith(("+", "-")) else f"+{text}"


def _typed(version: Version) -> str:
    vector = version.vector
    current = vector is not None and vector.current_id == version.pk
    return str(vector) if current else f"{vector}@v{version.number}"


# --- ids -------------------------------------------------------------------------------------


def row_of_id(name: str, caller: Caller) -> EquippedModel:
    """The recipe that ``equip/{name}`` spells. Raises RepoNotFound, whose sentence says why."""
    try:
        return _read_id(name, caller)
    except NotGranted as problem:
        raise gated(explain(problem), signed_in=caller.signed_in) from problem
    except Problem as problem:
        status = 404 if caller.signed_in else 401
        raise HubError(status, explain(problem), code="RepoNotFound") from problem


def _read_id(name: str, caller: Caller) -> EquippedModel:
    first, *rest = _SIGNS.split(name)
    if not rest:
        raise RecipeError(
            _(
                "equip/%(name)s is no recipe: write equip/MODEL_plus_VECTOR, such as "
                "equip/all-MiniLM-L6-v2_plus_0.5_spam-filter."
            ),
            name=name[:120],
        )
    foundation, target = _find_target(first, caller)
    terms = []
    for sign, part in zip(rest[::2], rest[1::2], strict=True):
        factor = _FACTOR.fullmatch(part)
        size = parse_coefficient(factor[1]) if factor else Decimal(1)
        version = _find_version(factor[2] if factor else part, caller)
        terms.append((version, -size if sign == "minus" else size))
    return make_equipped(foundation=foundation, target=target, terms=terms, user=caller.user)


def _find_target(text: str, caller: Caller) -> tuple[Foundation, Version | None]:
    wanted = Q()
    for namespace, name, number in _readings(text):
        if number is None:
            wanted |= Q(name=name) if namespace is None else Q(namespace=namespace, name=name)
    foundations = list(Foundation.objects.filter(wanted).defer("card_html", "search_text")[:5])
    versions = [each for each in _versions(text, caller) if each.form == "full"]
    _check_unique(text, [*foundations, *versions])
    if foundations:
        return foundations[0], None
    if not versions:
        raise RecipeError(
            _("There is no foundation or full fine-tune called `%(name)s` here."), name=text[:120]
        )
    version = granted(versions, caller.user, text)
    return check_target(version, text), version


def _find_version(text: str, caller: Caller) -> Version:
    versions = _versions(text, caller)
    _check_unique(text, versions)
    return granted(versions, caller.user, text)


def _versions(text: str, caller: Caller) -> list[Version]:
    """Every version that ``text`` can mean to the caller."""
    vectors = Vector.objects.visible_to(caller.user).select_related("current__foundation", "owner")
    found: dict[int, Version] = {}
    for namespace, name, number in _readings(text):
        named = vectors.filter(name=name)
        for vector in (named if namespace is None else named.filter(namespace=namespace))[:5]:
            version = vector.current
            if number is not None:
                version = vector.versions.filter(number=number).first()
            if version is not None:
                version.vector = vector
                found[version.pk] = version
    return list(found.values())


def _readings(text: str) -> Iterator[tuple[str | None, str, int | None]]:
    """The ways to read a name of an id: owner, name and version. Names may hold dots too."""
    numbered = _VERSION.fullmatch(text)
    stems = [(text, None), *([(numbered[1], int(numbered[2]))] if numbered else [])]
    for stem, number in stems:
        yield None, stem, number
        for dot in re.finditer(r"\.", stem):
            if stem[: dot.start()] and stem[dot.end() :]:
                yield stem[: dot.start()], stem[dot.end() :], number


def _check_unique(text: str, found: Sequence[Foundation | Version]) -> None:
    if len(found) > 1:
        ids = [str(each.vector if isinstance(each, Version) else each) for each in found]
        raise RecipeError(
            _("`%(name)s` can be %(several)s. Write the owner too: %(owned)s."),
            name=text[:120],
            several=", ".join(ids),
            owned=ids[0].replace("/", "."),
        )


def id_of(row: EquippedModel) -> str:
    """The recipe as a repository id that gives this very recipe; nothing where none can say it
    (another method than the plain sum, a name that holds ``_plus_``, too many vectors)."""
    recipe = row.recipe
    said = recipe.terms and recipe.method == "task_arithmetic"
    if not said or recipe.parameters or recipe.rules or recipe.out_dtype:
        return ""
    if any(term.parameters for term in recipe.terms):
        return ""
    target: Foundation | Version = row.target or row.foundation
    parts = [_written(target)]
    for term in row.terms.all():
        name = _written(term.version)
        plain = term.magnitude == "1" and not _FACTOR.fullmatch(name)
        parts.append("minus" if term.coefficient < 0 else "plus")
        parts.append(name if plain else f"{term.magnitude}_{name}")
    name = "_".join(parts)
    return f"equip/{name}" if len(name) <= MAX_ID and _SIGNS.split(name) == parts else ""


def _written(part: Foundation | Version) -> str:
    """The shortest name of an id that everybody reads as ``part``."""
    anybody = Caller(AnonymousUser())
    if isinstance(part, Foundation):
        names = [part.name, f"{part.namespace}.{part.name}"]
    else:
        vector = part.vector
        assert vector is not None
        suffix = "" if vector.current_id == part.pk else f"_v{part.number}"
        names = [f"{vector.name}{suffix}", f"{vector.namespace}.{vector.name}{suffix}"]
    for name in names:
        try:
            if isinstance(part, Foundation):
                meant = _find_target(name, anybody) == (part, None)
            else:
                meant = _find_version(name, anybody) == part
        except RecipeError:
            continue
        if meant:
            return name
    return names[-1]
