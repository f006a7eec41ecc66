"""Recipes as addresses that people read and type, wherever a client takes the name of a model.

    equip/MODEL_plus_NAME_minus_0.5_NAME    as a repository id, with the signs that ids may have
    MODEL at revision +NAME+0.5*NAME        as a revision: an expression that begins with a sign,
                                            behind a version (v2+NAME) if not on the current one

In an id a name is written as it is, with its owner (``ann.spam-filter``) where others have it too,
and with a version (``spam-filter_v2``) where the current one is not meant.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any

from django.contrib.auth.models import AnonymousUser
from django.db.models import Q

from merging.engine.errors import RecipeError, _
from merging.engine.expression_write import write_expression
from merging.engine.recipe import parse_coefficient
from merging.models import EquippedModel
from merging.naming import check_target, granted
from merging.services import make_equipped
from vectors.models import Foundation, Vector, Version

SPELLED = "equip"  # the namespace of ids that spell a recipe
MAX_ID = 96  # characters of a repository's name that clients take
SUM = re.compile(r"\s*(v\d{1,9})?\s*([-+−].*)", re.ASCII | re.DOTALL)  # as a revision
# Clients keep a file named as the revision, and some systems have no * in the names of files.
_TIMES = re.compile(r"(\d)\*([\w.@/~-]+)(?![\w.@/~\[-])")
_SIGNS = re.compile(r"_(plus|minus)_")
_FACTOR = re.compile(r"(\d+(?:\.\d+)?)_(.+)", re.ASCII)
_VERSION = re.compile(r"(.+)_v(\d{1,9})", re.ASCII)


def revision_of(row: EquippedModel) -> str:
    """The recipe as a revision of what it is put on."""
    names = {row.foundation.fingerprint: row.foundation.repo_id}
    if row.target is not None:
        names[row.target.digest] = typed_name(row.target)
    for term in row.terms.all():
        names.setdefault(term.version.digest, typed_name(term.version))
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
        text = _TIMES.sub(r"\1(\2)", text)
    text = text if text.startswith(("+", "-")) else f"+{text}"
    return f"{target.partition('@')[2]}{text}"


def typed_name(version: Version) -> str:
    """How an expression names the version: with its number where it is not the current one."""
    vector = version.vector
    current = vector is not None and vector.current_id == version.pk
    return str(vector) if current else f"{vector}@v{version.number}"


def read_id(name: str, user: Any) -> EquippedModel:
    """The recipe that ``equip/{name}`` spells. Raises Problem."""
    first, *rest = _SIGNS.split(name)
    if not rest:
        raise RecipeError(
            _(
                "equip/%(name)s is no recipe: write equip/MODEL_plus_VECTOR, such as "
                "equip/all-MiniLM-L6-v2_plus_0.5_spam-filter."
            ),
            name=name[:120],
        )
    foundation, target = _find_target(first, user)
    terms = []
    for sign, part in zip(rest[::2], rest[1::2], strict=True):
        factor = _FACTOR.fullmatch(part)
        size = parse_coefficient(factor[1]) if factor else Decimal(1)
        version = _find_version(factor[2] if factor else part, user)
        terms.append((version, -size if sign == "minus" else size))
    return make_equipped(foundation=foundation, target=target, terms=terms, user=user)


def _find_target(text: str, user: Any) -> tuple[Foundation, Version | None]:
    wanted = Q()
    for namespace, name, number in _readings(text):
        if number is None:
            wanted |= Q(name=name) if namespace is None else Q(namespace=namespace, name=name)
    foundations = list(Foundation.objects.filter(wanted).defer("card_html", "search_text")[:5])
    versions = [each for each in _versions(text, user) if each.form == "full"]
    _check_unique(text, [*foundations, *versions])
    if foundations:
        return foundations[0], None
    if not versions:
        raise RecipeError(
            _("There is no foundation or full fine-tune called `%(name)s` here."), name=text[:120]
        )
    version = granted(versions, user, text)
    return check_target(version, text), version


def _find_version(text: str, user: Any) -> Version:
    versions = _versions(text, user)
    _check_unique(text, versions)
    return granted(versions, user, text)


def _versions(text: str, user: Any) -> list[Version]:
    """Every version that ``text`` can mean to ``user``; one that was renamed where it means no
    other."""
    return _versions_where(text, user) or _versions_where(text, user, "former_names__")


def _versions_where(text: str, user: Any, of: str = "") -> list[Version]:
    vectors = Vector.objects.visible_to(user).select_related("current__foundation", "owner")
    found: dict[int, Version] = {}
    for namespace, name, number in _readings(text):
        owned = {} if namespace is None else {f"{of}namespace": namespace}
        for vector in vectors.filter(**{f"{of}name": name}, **owned).distinct()[:5]:
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
    return f"{SPELLED}/{name}" if len(name) <= MAX_ID and _SIGNS.split(name) == parts else ""


def _written(part: Foundation | Version) -> str:
    """The shortest name of an id that everybody reads as ``part``."""
    anybody = AnonymousUser()
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
