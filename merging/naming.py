"""What the names in a recipe mean: foundations and versions of the catalogue.

A name is ``owner/name``, ``owner/name@v2``, a bare ``name`` where only one thing has it, or the
digest (of a version) or fingerprint (of a foundation) that canonical recipes hold.
"""

from __future__ import annotations

import re
from typing import Any

from merging.engine.errors import RecipeError, _
from vectors.access import may_equip, may_see
from vectors.detect import by_name
from vectors.models import Foundation, Vector, Version

_DIGEST = re.compile(r"[0-9a-f]{64}")


class NotGranted(RecipeError):
    """A part of the recipe may be seen but not used by the one who asks."""


def find_version(text: str, user: Any) -> Version:
    """The version that ``text`` means. Raises RecipeError naming what was not found, or what it
    could mean."""
    text = text.strip()
    if _DIGEST.fullmatch(text):
        return granted(_with_digest(text), user, text)
    name, _at, number = text.partition("@")
    if "\0" in name:
        return granted([], user, text)  # PostgreSQL would refuse the question
    vectors = Vector.objects.select_related("foundation", "current", "owner")
    if "/" in name:
        # As it is written first: an index knows that, and for the rest all vectors are looked at.
        found = list(vectors.by_repo_id(name)) or list(vectors.called(name))
    else:
        seen = vectors.visible_to(user)
        found = list(seen.filter(name__iexact=name)[:5])
        found = found or list(seen.filter(former_names__name__iexact=name).distinct()[:5])
    if len(found) > 1:
        raise RecipeError(
            _("`%(name)s` can be %(several)s. Write the owner too."),
            name=name,
            several=", ".join(vector.repo_id for vector in found),
        )
    version: Version | None = found[0].current if found else None
    if found and number:
        digits = number.removeprefix("v")
        known = digits.isdecimal() and len(digits) < 10
        version = found[0].versions.filter(number=int(digits)).first() if known else None
    if version is None and is_foundation(name):
        raise RecipeError(
            _(
                "%(name)s is a foundation, not a vector: leave it out of the sum, or name it as "
                "what the vectors are put on."
            ),
            name=text,
        )
    return granted([version] if version is not None else [], user, text)


def granted(versions: list[Version], user: Any, text: str) -> Version:
    """The first of ``versions`` that ``user`` may equip. Raises RecipeError where none is."""
    seen = [version for version in versions if may_see(user, version)]
    if not seen:
        raise RecipeError(_("There is no vector called `%(name)s` here."), name=text[:120])
    for version in seen:
        if may_equip(user, version):
            return version
    raise NotGranted(
        _("%(vector)s is not open to everyone. Its page says how to get it: /%(vector)s"),
        vector=str(seen[0].vector),
    )


def _with_digest(digest: str) -> list[Version]:
    rows = Version.objects.filter(digest=digest, vector__isnull=False, number__isnull=False)
    return list(rows.select_related("vector", "foundation").order_by("pk")[:20])


def check_fits(version: Version, foundation: Foundation) -> None:
    """Raise RecipeError unless the version is a vector of ``foundation``."""
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


def find_foundation(text: str) -> Foundation | None:
    """The foundation that a name or a fingerprint means."""
    if _DIGEST.fullmatch(text):
        return Foundation.objects.filter(fingerprint=text).first()
    return None if "\0" in text else by_name(text)


def find_target(text: str, user: Any) -> tuple[Foundation, Version | None]:
    """Foundation and target that a name means: the foundation itself, or a full fine-tune of it."""
    foundation = find_foundation(text)
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
    return check_target(version, text), version


def check_target(version: Version, text: str) -> Foundation:
    """The foundation of a version that vectors are put on. Raises RecipeError for a LoRA or a
    delta, which are no whole models."""
    if version.form != "full" or version.foundation is None:
        raise RecipeError(
            _("%(name)s is a %(form)s, not a whole model: put it on its foundation as a vector."),
            name=text,
            form=version.form,
        )
    return version.foundation


def is_foundation(name: str) -> bool:
    """Whether a name of a sum is a foundation's. Only a bare name may be a part of one's name:
    `ann/llama` is Ann's."""
    if "\0" in name:
        return False
    return Foundation.objects.by_repo_id(name).exists() or (
        "/" not in name and find_foundation(name) is not None
    )
