"""Writes of the middle: making recipes, counting equips."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import F

from merging.engine.errors import RecipeError, _
from merging.engine.expression import Expression, parse_expression
from merging.engine.mergekit import base_is_input
from merging.engine.methods import get_method
from merging.engine.recipe import Recipe, make_recipe
from merging.engine.rules import Rule
from merging.models import SLUG_DIGITS, Equip, EquippedModel, EquippedTerm
from merging.opening import opened_recipe
from vectors.access import may_equip, may_see
from vectors.detect import by_name
from vectors.models import Foundation, Vector, Version

# A version, its coefficient and, where it has some, its own parameters.
Terms = Sequence[tuple[Version, Decimal] | tuple[Version, Decimal, Mapping[str, Any]]]


class NotGranted(RecipeError):
    """A part of the recipe may be seen but not used by the one who asks."""


def find_version(text: str, user: Any) -> Version:
    """The version that ``owner/name``, ``owner/name@v2`` or a unique bare ``name`` means.

    Raises RecipeError naming what was not found, or what it could mean.
    """
    name, _at, number = text.strip().partition("@")
    vectors = Vector.objects.select_related("foundation", "current", "owner")
    if "/" in name:
        found = list(vectors.by_repo_id(name))
    else:
        found = list(vectors.filter(name__iexact=name)[:5])
    if len(found) > 1:
        raise RecipeError(
            _("`%(name)s` can be %(several)s. Write the owner too."),
            name=name,
            several=", ".join(vector.repo_id for vector in found),
        )
    version: Version | None = found[0].current if found else None
    if found and number:
        digits = number.removeprefix("v")
        version = found[0].versions.filter(number=int(digits)).first() if digits.isdigit() else None
    if version is None or not may_see(user, version):
        raise RecipeError(_("There is no vector called `%(name)s` here."), name=text.strip()[:120])
    if not may_equip(user, version):
        raise NotGranted(
            _("%(vector)s is not open to everyone. Its page says how to get it: /%(vector)s"),
            vector=str(version.vector),
        )
    return version


def find_target(text: str, user: Any) -> tuple[Foundation, Version | None]:
    """Foundation and target that a repository id means: the foundation itself, or a full
    fine-tune of it."""
    foundation = by_name(text)
    if foundation is not None:
        return foundation, None
    try:
        version = find_version(text, user)
    except NotGranted:
        raise
    except RecipeError:
        raise RecipeError(
            _("There is no foundation or full fine-tune called `%(name)s` here."), name=text[:120]
        ) from None
    if version.form != "full" or version.foundation is None:
        raise RecipeError(
            _("%(name)s is a %(form)s, not a whole model: put it on its foundation as a vector."),
            name=text,
            form=version.form,
        )
    return version.foundation, version


def equip_expression(expression: str, *, on: str, user: Any) -> EquippedModel:
    """The recipe that ``expression`` says.

    It is put on what the expression names as its target, else on ``on``, else on the vectors'
    foundation. Raises Problem.
    """
    parsed = parse_expression(expression)
    target, summands = parsed.on, parsed.summands
    if not base_is_input(get_method(parsed.method)):
        # Who names the foundation apart begins the sum with the target, as over local folders.
        first = parsed.summands[0] if parsed.base and not parsed.called else None
        target, summands = parsed.split_target(
            lambda each: each is first or _is_foundation(each.name)
        )
    versions = {each.name: find_version(each.name, user) for each in summands}
    return equip_terms(
        [(versions[each.name], each.coefficient, each.parameters) for each in summands],
        on=target or on,
        base=parsed.base or "",
        user=user,
        method=parsed.method,
        parameters=parsed.parameters,
        out_dtype=parsed.out_dtype,
        seed=parsed.seed,
        rules=_rules(parsed, versions),
    )


def _is_foundation(name: str) -> bool:
    # Only a bare name may be a part of a foundation's: `ann/llama` is Ann's.
    return Foundation.objects.by_repo_id(name).exists() or (
        "/" not in name and by_name(name) is not None
    )


def _rules(parsed: Expression, versions: Mapping[str, Version]) -> list[Rule]:
    """The rules with digests for names. Only what is in the sum can be named."""

    def digest(name: str) -> str:
        if name not in versions:
            raise RecipeError(
                _("A rule names %(name)s, which is no vector of the expression."), name=name[:120]
            )
        return versions[name].digest

    return [rule.resolved(digest) for rule in parsed.rules]


def equip_terms(
    terms: Terms,
    *,
    on: str = "",
    base: str = "",
    user: Any,
    method: str = "task_arithmetic",
    parameters: Mapping[str, Any] | None = None,
    out_dtype: str | None = None,
    seed: int = 0,
    rules: Sequence[Rule] = (),
) -> EquippedModel:
    """Make (or find) the recipe of ``terms`` on the repository ``on``.

    ``base`` may say which foundation that is meant to belong to. Raises Problem.
    """
    target: Version | None = None
    if on:
        foundation, target = find_target(on, user)
    elif terms:
        first = terms[0][0].foundation
        assert first is not None
        foundation = first
    else:
        raise RecipeError(_("A recipe needs at least one vector."))
    if base and by_name(base) != foundation:
        raise RecipeError(
            _("`base` names %(base)s, but the recipe is on %(foundation)s."),
            base=base[:120],
            foundation=foundation.repo_id,
        )
    return make_equipped(
        foundation=foundation,
        target=target,
        terms=terms,
        user=user,
        method=method,
        parameters=parameters,
        out_dtype=out_dtype,
        seed=seed,
        rules=rules,
    )


def make_equipped(
    *,
    foundation: Foundation,
    target: Version | None,
    terms: Terms,
    user: Any,
    method: str = "task_arithmetic",
    parameters: Mapping[str, Any] | None = None,
    out_dtype: str | None = None,
    seed: int = 0,
    rules: Sequence[Rule] = (),
) -> EquippedModel:
    """The row of a recipe, made when it is new. Everything is checked before it exists."""
    for version, *_rest in terms:
        if version.foundation_id != foundation.pk:
            raise RecipeError(
                _(
                    "%(vector)s is a vector of %(its)s and does not fit %(foundation)s: task "
                    "vectors only fit the foundation they were trained from."
                ),
                vector=str(version.vector),
                its=str(version.foundation),
                foundation=foundation.repo_id,
            )
        if not may_equip(user, version):
            raise NotGranted(_("%(vector)s is not for you to equip."), vector=str(version.vector))
    recipe = make_recipe(
        foundation=foundation.fingerprint,
        target=target.digest if target else foundation.fingerprint,
        terms=[(version.digest, *rest) for version, *rest in terms],
        method=method,
        parameters=parameters,
        out_dtype=out_dtype,
        seed=seed,
        rules=rules,
    )
    existing = EquippedModel.objects.filter(hash=recipe.hash).first()
    if existing is not None:
        return existing
    chosen = {version.digest: version for version, *_rest in reversed(terms)}
    versions = [chosen[term.ref] for term in recipe.terms]
    with opened_recipe(recipe, foundation, target, versions) as equipment:
        nbytes, report = equipment.model.size, equipment.report.as_data()
    try:
        return _store(recipe, foundation, target, versions, nbytes, report, user)
    except IntegrityError:  # somebody made the same recipe in this moment
        return EquippedModel.objects.get(hash=recipe.hash)


def _store(
    recipe: Recipe,
    foundation: Foundation,
    target: Version | None,
    versions: Sequence[Version],
    nbytes: int,
    report: dict[str, Any],
    user: Any,
) -> EquippedModel:
    with transaction.atomic():
        row = EquippedModel.objects.create(
            hash=recipe.hash,
            slug=recipe.hash[:SLUG_DIGITS],
            canonical=recipe.to_json(),
            foundation=foundation,
            target=target,
            nbytes=nbytes,
            report=report,
            created_by=user if user.is_authenticated else None,
        )
        EquippedTerm.objects.bulk_create(
            EquippedTerm(
                equipped=row, position=position, version=version, coefficient=term.coefficient
            )
            for position, (term, version) in enumerate(zip(recipe.terms, versions, strict=True))
        )
    return row


def count_equip(row: EquippedModel, *, user: Any, visit: str) -> None:
    """Count an equip once per account, or once per visit of a stranger."""
    with transaction.atomic():
        account = user if user.is_authenticated else None
        key = "" if account else visit[:64]
        if Equip.objects.filter(equipped=row, user=account, visit=key).exists():
            return
        Equip.objects.create(equipped=row, user=account, visit=key)
        EquippedModel.objects.filter(pk=row.pk).update(equips=F("equips") + 1)
        vectors = [term.version.vector_id for term in row.terms.select_related("version")]
        Vector.objects.filter(pk__in=[pk for pk in vectors if pk]).update(equips=F("equips") + 1)


def may_use(row: EquippedModel, user: Any) -> bool:
    """Whether ``user`` may download the equipped model: a right to each of its parts."""
    return not missing_grants(row, user)


def missing_grants(row: EquippedModel, user: Any) -> list[Version]:
    """The parts of the recipe that ``user`` may not equip."""
    return [part for part in parts_of(row) if not any(may_equip(user, v) for v in _same(part))]


def may_see_recipe(row: EquippedModel, user: Any) -> bool:
    """Whether ``user`` may know of the recipe: whether they may of each of its parts."""
    return all(any(may_see(user, v) for v in _same(part)) for part in parts_of(row))


def parts_of(row: EquippedModel) -> list[Version]:
    """The versions that the recipe is made of: its terms', and its target."""
    versions = [term.version for term in row.terms.select_related("version__vector")]
    if row.target is not None:
        versions.append(row.target)
    return versions


def _same(version: Version) -> Iterator[Version]:
    """The version, and others with the very same content: equal recipes are one recipe, and who
    has a right to any of them has the bytes."""
    yield version
    twins = Version.objects.filter(digest=version.digest, foundation=version.foundation_id)
    yield from twins.exclude(pk=version.pk).select_related("vector")
