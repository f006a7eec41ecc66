"""Which models a check runs and which probes it asks them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from decimal import Decimal
from importlib.metadata import version as installed

from merging.card import target_id
from merging.engine.kernels import KERNEL
from merging.engine.recipe import Recipe, Term, coefficient_text, make_recipe
from merging.models import EquippedModel
from vectors.files import called
from vectors.models import Foundation, Version
from vectors.probes import CONTROLS, PROBES, Probe, read_probes
from vectors.storage.current import storage

from .table import ASKED, CONTROL, TARGET, TERM, Ability

RUNNER = 1  # counts up whenever the runner gives other answers to the same probes
ALONE_ON_ALL = 4  # vectors; of more, each is asked its own probes only, when it is alone


@dataclass(frozen=True)
class Model:
    """A model to ask: its place in the table, and the recipe that makes it."""

    key: str
    label: str
    recipe: Recipe
    foundation: Foundation
    target: Version | None
    versions: tuple[Version, ...]
    asks: frozenset[str] | None = None  # keys of abilities; None: all

    @property
    def identity(self) -> str:
        """What the scores of the model are kept under: what it is, and what ran it."""
        programs = f"{RUNNER} {installed('torch')} {installed('transformers')}"
        return hashlib.sha256(f"{self.recipe.hash}\n{KERNEL}\n{programs}".encode()).hexdigest()


def probes_in(owner: Foundation | Version, path: str = PROBES) -> list[Probe]:
    """The probes that ``owner`` comes with in the file ``path``; none where it has none."""
    file = owner.files.filter(path=path).first()
    if file is None:
        return []
    with closing(called(path, storage().open(file.blob_id))) as source:
        return read_probes(source)


def has_probes(version: Version) -> bool:
    """Whether the version comes with held-out items."""
    return version.files.filter(path=PROBES).exists()


def abilities_of(row: EquippedModel, also: Iterable[Version] = ()) -> list[Ability]:
    """Everything a recipe's check asks, each probe once: the vectors', the target's, the controls
    of all of them and of the foundation, and those of ``also``."""
    found: list[Ability] = []
    terms = list(row.terms.select_related("version__vector"))
    for term in terms:
        for probe in probes_in(term.version):
            alone = alone_key(term.version.digest)
            found.append(Ability(probe, TERM, str(term.version), term.coefficient, alone))
    if row.target is not None:
        found += [Ability(p, TARGET, str(row.target)) for p in probes_in(row.target)]
    found += [Ability(p, CONTROL, str(row.foundation)) for p in probes_in(row.foundation, CONTROLS)]
    for term in terms:
        found += [Ability(p, CONTROL, str(term.version)) for p in probes_in(term.version, CONTROLS)]
    for version in also:
        found += [Ability(p, ASKED, str(version)) for p in probes_in(version)]
    once: dict[str, Ability] = {}
    for ability in found:
        once.setdefault(ability.key, ability)
    return list(once.values())


def models_of(row: EquippedModel, abilities: Sequence[Ability]) -> list[Model]:
    """The target, each vector alone on it at coefficient 1, and the equipped model."""
    return [
        target_of(row),
        *alone_of(row, abilities),
        Model(
            "equipped",
            row.repo_id,
            row.recipe,
            row.foundation,
            row.target,
            tuple(term.version for term in _terms(row)),
        ),
    ]


def target_of(row: EquippedModel) -> Model:
    """What the vectors are put on, as it is."""
    recipe = make_recipe(foundation=row.recipe.foundation, target=row.recipe.target, terms=[])
    return Model("target", target_id(row), recipe, row.foundation, row.target, ())


def alone_key(digest: str) -> str:
    """The place of a vector alone in the table."""
    return f"alone-{digest[:16]}"


def alone_of(row: EquippedModel, abilities: Sequence[Ability]) -> list[Model]:
    """Each vector of the recipe alone on its target, once."""
    versions = {version.digest: version for version in (term.version for term in _terms(row))}
    return [
        Model(
            alone_key(digest),
            str(version),
            _alone(row.recipe, digest),
            row.foundation,
            row.target,
            (version,),
            None
            if len(versions) <= ALONE_ON_ALL
            else frozenset(each.key for each in abilities if each.alone == alone_key(digest)),
        )
        for digest, version in versions.items()
    ]


def _alone(recipe: Recipe, digest: str) -> Recipe:
    """One vector at coefficient 1. Of the rules those stay that speak of it, or of all."""
    known = {None, recipe.foundation, recipe.target, digest}
    return make_recipe(
        foundation=recipe.foundation,
        target=recipe.target,
        terms=[(digest, 1)],
        out_dtype=recipe.out_dtype,
        rules=[r for r in recipe.rules if known.issuperset(r.references)],
    )


def setting_of(row: EquippedModel, number: int, coefficients: Sequence[Decimal]) -> Model:
    """The recipe with other coefficients, in the order of its terms."""
    recipe = row.recipe
    versions = {term.version.digest: term.version for term in _terms(row)}
    changed = make_recipe(
        foundation=recipe.foundation,
        target=recipe.target,
        terms=[_weighed(t, c) for t, c in zip(recipe.terms, coefficients, strict=True)],
        method=recipe.method,
        parameters=recipe.parameters,
        out_dtype=recipe.out_dtype,
        rules=recipe.rules,
        seed=recipe.seed,
    )
    return Model(
        f"setting-{number}",
        ", ".join(coefficient_text(c) for c in coefficients),
        changed,
        row.foundation,
        row.target,
        tuple(versions[term.ref] for term in changed.terms),
    )


def _weighed(term: Term, coefficient: Decimal) -> tuple[str, Decimal, dict]:
    return term.ref, coefficient, dict(term.parameters)


def with_and_without(version: Version) -> list[Model]:
    """The foundation without and with one vector."""
    foundation = version.foundation
    assert foundation is not None
    mark = foundation.fingerprint
    return [
        Model(
            key,
            str(version) if terms else foundation.repo_id,
            make_recipe(foundation=mark, target=mark, terms=terms),
            foundation,
            None,
            (version,) if terms else (),
        )
        for key, terms in (("target", []), ("equipped", [(version.digest, 1)]))
    ]


def foundation_model(foundation: Foundation) -> Model:
    """The foundation itself: it embeds the descriptions of labels."""
    mark = foundation.fingerprint
    recipe = make_recipe(foundation=mark, target=mark, terms=[])
    return Model("foundation", foundation.repo_id, recipe, foundation, None, ())


def _terms(row: EquippedModel) -> list:
    return list(row.terms.select_related("version__vector", "version__foundation"))
