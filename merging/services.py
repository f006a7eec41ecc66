"""Writes of the middle: making recipes, counting equips."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

from django.contrib.auth.models import AnonymousUser
from django.db import IntegrityError, transaction
from django.db.models import F

from merging.card import parts_data
from merging.engine.cursor import marked
from merging.engine.document import Document, Entry
from merging.engine.errors import RecipeError, _
from merging.engine.expression import parse_expression
from merging.engine.mergekit import base_is_input, read_yaml
from merging.engine.methods import get_method
from merging.engine.notation import document_of_recipe
from merging.engine.recipe import Recipe, make_recipe, recipe_from_json
from merging.engine.rules import Rule
from merging.licences import licence_of_mix, licences_of
from merging.models import SLUG_DIGITS, Equip, EquippedModel, EquippedTerm
from merging.naming import (
    NotGranted,
    check_fits,
    find_foundation,
    find_target,
    find_version,
    is_foundation,
)
from merging.opening import opened_recipe, stored_dtype
from merging.written import (
    check_adapters,
    check_supported,
    find_part,
    named_ground,
    part_name,
    rule_reference,
)
from vectors.access import may_equip, may_see, owns
from vectors.models import Foundation, Vector, Version

# A version, its coefficient and, where it has some, its own parameters.
Terms = Sequence[tuple[Version, Decimal] | tuple[Version, Decimal, Mapping[str, Any]]]


def equip_expression(expression: str, *, on: str, user: Any) -> EquippedModel:
    """The recipe that ``expression`` says.

    It is put on what the expression names as its target, else on ``on``, else on the vectors'
    foundation. Raises Problem; its ``marked`` is the place in the text.
    """
    parsed = parse_expression(expression)
    target, summands = parsed.on, parsed.summands
    if not base_is_input(get_method(parsed.method)):
        # Who names the foundation apart begins the sum with the target, as over local folders.
        first = parsed.summands[0] if parsed.base and not parsed.called else None
        target, summands = parsed.split_target(
            lambda each: each is first or is_foundation(each.name)
        )
    for each in summands:
        try:
            find_version(each.name, user)
        except RecipeError as error:
            error.params.setdefault("marked", marked(expression, each.position))
            raise
    document = Document(
        method=parsed.method,
        foundation=parsed.base or "",
        target=target or "",
        entries=tuple(
            Entry(each.name, None, each.coefficient, each.parameters) for each in summands
        ),
        parameters=parsed.parameters,
        out_dtype=parsed.out_dtype,
        rules=parsed.rules,
        seed=parsed.seed,
        any_form=True,
    )
    return equip_document(document, on=on, user=user)


def equip_yaml(text: str, *, on: str, user: Any) -> EquippedModel:
    """The recipe of mergekit's YAML with the catalogue's names. Raises Problem."""
    return equip_document(read_yaml(text), on=on, user=user)


def equip_json(data: Any, *, on: str, user: Any) -> EquippedModel:
    """The recipe in JSON: canonical (digests) or with names in their place. Raises Problem.

    The method may be left out (task_arithmetic), and so may target and foundation.
    """
    if isinstance(data, str):
        text = data
    elif isinstance(data, dict):
        words = {"method": "task_arithmetic", "terms": [], "target": "", "foundation": ""}
        text = json.dumps({**words, **data})
    else:
        raise RecipeError(_("This is not a recipe in JSON."))
    return equip_document(document_of_recipe(recipe_from_json(text)), on=on, user=user)


def equip_document(document: Document, *, on: str = "", user: Any) -> EquippedModel:
    """The recipe of ``document``, whose names are the catalogue's: every notation ends here.

    It is put on the document's target, else on ``on``, else on the vectors' foundation.
    """
    check_supported(document)
    versions = {part_name(entry): find_part(entry, user) for entry in document.entries}
    base, onto = named_ground(document)
    foundation, target = _ground(base, onto or on, list(versions.values()), user)
    check_adapters(document, foundation)
    known = {base: foundation.fingerprint, onto: target.digest if target else ""}
    known = {name: ref for name, ref in known.items() if name and ref}
    known |= {name: version.digest for name, version in versions.items()}
    return make_equipped(
        foundation=foundation,
        target=target,
        terms=[
            (versions[part_name(entry)], entry.weight, entry.parameters)
            for entry in document.entries
        ],
        user=user,
        method=document.method,
        parameters=document.parameters,
        out_dtype=document.out_dtype,
        seed=document.seed,
        rules=[rule.resolved(rule_reference(known, user)) for rule in document.rules],
    )


def equip_terms(
    terms: Terms,
    *,
    on: str = "",
    user: Any,
    method: str = "task_arithmetic",
    parameters: Mapping[str, Any] | None = None,
    out_dtype: str | None = None,
    seed: int = 0,
    rules: Sequence[Rule] = (),
) -> EquippedModel:
    """Make (or find) the recipe of ``terms`` on the repository ``on``. Raises Problem."""
    foundation, target = _ground("", on, [version for version, *_rest in terms], user)
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


def _ground(
    base: str, onto: str, versions: Sequence[Version], user: Any
) -> tuple[Foundation, Version | None]:
    """Foundation and target of a recipe: as named, else the foundation of its vectors."""
    target: Version | None = None
    foundation: Foundation | None = None
    if onto:
        foundation, target = find_target(onto, user)
    elif versions:
        foundation = versions[0].foundation
    if foundation is None:
        raise RecipeError(_("A recipe needs at least one vector."))
    if base and find_foundation(base) != foundation:
        raise RecipeError(
            _("`base` names %(base)s, but the recipe is on %(foundation)s."),
            base=base[:120],
            foundation=foundation.repo_id,
        )
    return foundation, target


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
        check_fits(version, foundation)
        if not may_equip(user, version):
            raise NotGranted(_("%(vector)s is not for you to equip."), vector=str(version.vector))
    _check_licences(foundation, target, [version for version, *_rest in terms], user)
    if out_dtype is not None and out_dtype == stored_dtype(target or foundation):
        out_dtype = None  # what the result has anyway is not said
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
    chosen = {version.digest: version for version, *_rest in reversed(terms)}
    versions = [chosen[term.ref] for term in recipe.terms]
    if existing is not None:
        _name_for_all(existing, target, versions)
        return existing
    with opened_recipe(recipe, foundation, target, versions) as equipment:
        nbytes, report = equipment.model.size, equipment.report.as_data()
    report["parts"] = parts_data(foundation, target, versions)
    try:
        return _store(recipe, foundation, target, versions, nbytes, report, user)
    except IntegrityError:  # somebody made the same recipe in this moment
        return EquippedModel.objects.get(hash=recipe.hash)


def _check_licences(
    foundation: Foundation, target: Version | None, versions: Sequence[Version], user: Any
) -> None:
    """Refuse a mix that a licence forbids. What is one's own, one may mix as one likes."""
    every = [*([target] if target else []), *versions]
    others = [version for version in every if not owns(user, version)]
    mix = licence_of_mix(licences_of(foundation, others))
    if mix.status == "refused":
        raise RecipeError(mix.reasons[0].template, **mix.reasons[0].params)


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


def _name_for_all(row: EquippedModel, target: Version | None, versions: Sequence[Version]) -> None:
    """Let the recipe name these public parts in place of private ones with the very same content.

    Equal recipes are one recipe. Where its maker's vectors are private and others have public
    twins of them, the names of the private ones are not for those who come by the twins.
    """
    parts = [*versions, *([target] if target else [])]
    if all(map(_is_public, parts_of(row))) or not all(map(_is_public, parts)):
        return
    with transaction.atomic():
        row.report["parts"] = parts_data(row.foundation, target, versions)
        row.target = target
        row.save(update_fields=["report", "target"])
        for term, version in zip(row.terms.order_by("position"), versions, strict=True):
            EquippedTerm.objects.filter(pk=term.pk).update(version=version)


def _is_public(version: Version) -> bool:
    return may_see(AnonymousUser(), version)


def count_equip(row: EquippedModel, *, user: Any, visit: str) -> None:
    """Count an equip once per account, or once per visit of a stranger."""
    with transaction.atomic():
        account = user if user.is_authenticated else None
        key = "" if account else visit[:64]
        if Equip.objects.filter(equipped=row, user=account, visit=key).exists():
            return
        try:
            with transaction.atomic():
                Equip.objects.create(equipped=row, user=account, visit=key)
        except IntegrityError:
            return  # the button was pressed twice
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
    """Whether ``user`` may know of the recipe: whether they may of each of its parts.

    A public twin of a private part does not do: the page would name the private one. Who equips
    the twin gives the recipe its name (``_name_for_all``).
    """

    def may_know(part: Version) -> bool:
        if may_see(user, part):
            return True
        return any(may_see(user, twin) and not _is_public(twin) for twin in _same(part))

    return all(map(may_know, parts_of(row)))


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
