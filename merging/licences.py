"""The licence of a mix: what one may do with a model that several licences speak of.

The parts' licences are known by their SPDX-like ids, and of each what matters for passing on a
derived work. This is not legal advice, and the pages say so; it finds what plainly contradicts.
Sources: the texts of the licences; the FSF's list of licences and Creative Commons' list of
compatible ones (CC BY-SA 4.0 may become GPL-3.0, in that direction only).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from vectors.models import Foundation, Version
from vectors.tensorfile.errors import Problem, _

Status = Literal["allowed", "labelled", "refused"]


@dataclass(frozen=True)
class Terms:
    """What a licence asks of derived works. ``share_alike`` names the licence they must have;
    ``own_terms`` says that its terms go with every copy (Llama, Gemma, OpenRAIL)."""

    commercial: bool = True
    derivatives: bool = True
    attribution: bool = True
    share_alike: str = ""
    own_terms: bool = False


_PERMISSIVE = Terms()
KNOWN: dict[str, Terms] = {
    "apache-2.0": _PERMISSIVE,
    "mit": _PERMISSIVE,
    "bsd-2-clause": _PERMISSIVE,
    "bsd-3-clause": _PERMISSIVE,
    "isc": _PERMISSIVE,
    "zlib": _PERMISSIVE,
    "cc0-1.0": Terms(attribution=False),
    "unlicense": Terms(attribution=False),
    "cc-by-4.0": _PERMISSIVE,
    "cc-by-3.0": _PERMISSIVE,
    "cc-by-sa-4.0": Terms(share_alike="cc-by-sa-4.0"),
    "cc-by-nc-4.0": Terms(commercial=False),
    "cc-by-nc-sa-4.0": Terms(commercial=False, share_alike="cc-by-nc-sa-4.0"),
    "cc-by-nd-4.0": Terms(derivatives=False),
    "cc-by-nc-nd-4.0": Terms(commercial=False, derivatives=False),
    "gpl-3.0": Terms(share_alike="gpl-3.0"),
    "agpl-3.0": Terms(share_alike="agpl-3.0"),
    "lgpl-3.0": Terms(share_alike="lgpl-3.0"),
    "mpl-2.0": Terms(share_alike="mpl-2.0"),
    "openrail": Terms(own_terms=True),
    "openrail++": Terms(own_terms=True),
    "creativeml-openrail-m": Terms(own_terms=True),
    "bigscience-openrail-m": Terms(own_terms=True),
    "llama2": Terms(own_terms=True),
    "llama3": Terms(own_terms=True),
    "llama3.1": Terms(own_terms=True),
    "llama3.2": Terms(own_terms=True),
    "llama3.3": Terms(own_terms=True),
    "gemma": Terms(own_terms=True),
}
# Of two share-alike licences, the one that a work under the first may be passed on under.
_INTO = {
    ("cc-by-sa-4.0", "gpl-3.0"),
    ("lgpl-3.0", "gpl-3.0"),
    ("lgpl-3.0", "agpl-3.0"),
    ("gpl-3.0", "agpl-3.0"),
    ("mpl-2.0", "gpl-3.0"),
    ("mpl-2.0", "agpl-3.0"),
    ("mpl-2.0", "lgpl-3.0"),
}
_FREE = {"gpl-3.0", "agpl-3.0", "lgpl-3.0"}  # allow no further restriction


@dataclass(frozen=True)
class Mix:
    """What the licences of the parts make of their mix.

    ``licence`` is the id it can be passed on under (``other`` where several sets of terms hold at
    once); ``reasons`` are the sentences that say why.
    """

    status: Status
    licence: str
    commercial: bool
    shareable: bool
    attribution: bool
    reasons: tuple[Problem, ...] = ()


def licences_of(foundation: Foundation, versions: Iterable[Version]) -> list[tuple[str, str]]:
    """The parts of a mix for ``licence_of_mix``: the foundation, then the vectors."""
    vectors = [version.vector for version in versions]
    owners = [foundation, *(vector for vector in vectors if vector is not None)]
    return [(owner.repo_id, owner.license) for owner in owners]


def licence_of_mix(parts: Sequence[tuple[str, str]]) -> Mix:
    """The mix of ``parts``, each a repository id and its licence's id (empty: nobody said)."""
    names = list(dict.fromkeys(licence.lower() for _repo, licence in parts))
    terms = {name: KNOWN[name] for name in names if name in KNOWN}
    reasons: list[Problem] = []
    for repo, licence in parts:
        known = terms.get(licence.lower())
        if known is not None and not known.derivatives:
            reasons.append(
                Problem(
                    _("%(repo)s is under %(licence)s, which allows no derived works: no merge."),
                    repo=repo,
                    licence=licence,
                )
            )
    refused = bool(reasons)
    unknown = [repo for repo, licence in parts if licence.lower() not in KNOWN]
    if unknown:
        reasons.append(
            Problem(
                _("What may be done with %(repos)s is not stated in known terms: ask the makers."),
                repos=", ".join(dict.fromkeys(unknown)),
            )
        )
    reasons += _named_terms(parts, terms)
    licence, clash = _under(names, terms)
    if clash is not None:
        reasons.append(clash)
    commercial = all(each.commercial for each in terms.values())
    if not commercial:
        reasons.append(_not_commercial(parts, terms))
    shareable = not refused and clash is None and not unknown
    status: Status = "refused" if refused else "allowed" if not reasons else "labelled"
    attribution = any(each.attribution for each in terms.values()) or bool(unknown)
    return Mix(status, licence, commercial, shareable, attribution, tuple(reasons))


def _under(names: Iterable[str], terms: dict[str, Terms]) -> tuple[str, Problem | None]:
    """The licence the mix can have, and the contradiction where there is none."""
    names = list(names)
    alike = [terms[name].share_alike for name in names if name in terms]
    alike = list(dict.fromkeys(name for name in alike if name))
    if not alike:
        if len(names) == 1 and names[0] in terms:
            return names[0], None
        restricted = any(not terms[n].commercial or terms[n].own_terms for n in terms)
        if restricted or len(terms) < len(names):
            return "other", None
        return min(names, key=_permissive_order), None
    strictest = next(
        (goal for goal in alike if all(each == goal or (each, goal) in _INTO for each in alike)),
        None,
    )
    if strictest is None:
        return "other", Problem(
            _("%(first)s and %(second)s each ask for the mix to have their licence."),
            first=alike[0],
            second=alike[1],
        )
    for name in names:
        known = terms.get(name)
        if known is None or known.share_alike:
            continue
        if (strictest in _FREE and (not known.commercial or known.own_terms)) or (
            strictest == "cc-by-sa-4.0" and (not known.commercial or known.own_terms)
        ):
            return "other", Problem(
                _("%(strict)s allows no further restrictions, and %(other)s has some."),
                strict=strictest,
                other=name,
            )
    return strictest, None


def _permissive_order(name: str) -> tuple[bool, bool, int]:
    """Order of the permissive licences: the one that asks for what all the others ask comes first,
    whatever the order of the parts."""
    asks_most = ("apache-2.0", "cc-by-4.0", "cc-by-3.0")
    return name not in asks_most, not KNOWN[name].attribution, list(KNOWN).index(name)


def _named_terms(parts: Sequence[tuple[str, str]], terms: dict[str, Terms]) -> list[Problem]:
    named = [
        licence
        for _repo, licence in parts
        if licence.lower() in terms and terms[licence.lower()].own_terms
    ]
    return [
        Problem(_("The terms of %(licence)s go with every copy."), licence=licence)
        for licence in dict.fromkeys(named)
    ]


def _not_commercial(parts: Sequence[tuple[str, str]], terms: dict[str, Terms]) -> Problem:
    which = [
        repo
        for repo, licence in parts
        if licence.lower() in terms and not terms[licence.lower()].commercial
    ]
    return Problem(
        _("Not for commercial use, because of %(repos)s."), repos=", ".join(dict.fromkeys(which))
    )
