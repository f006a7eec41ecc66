"""Who may see, read and use what. This module owns the question and asks nobody above.

A published version of a public vector may be seen by everyone, of a private one by its owner and
those who have a grant; a draft only by its owner. A withdrawn version may be seen by its owner and
by who had a grant when it was withdrawn: a right that somebody was given or paid for is not ended
by taking the goods off the shelf, and nobody new gets them. To read a version's files or to equip
it takes a grant as well, unless its vector is open. Equipping is reading: whoever has ``θ + τ`` and
θ has τ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

from vectors.models import Access, AccessRequest, Foundation, Grant, Vector, Version, Visibility


def may_see(user: Any, version: Version) -> bool:
    """Whether ``user`` (possibly anonymous) may see the version's page and the list of files."""
    vector = version.vector
    return _sees(user, version, lambda: grant_of(user, vector) if vector else None)


def seen_of(user: Any, vector: Vector, versions: Iterable[Version]) -> list[Version]:
    """Those of the vector's ``versions`` that ``user`` may see: one question for all of them."""
    grant = cache(lambda: grant_of(user, vector))
    return [version for version in versions if _sees(user, version, grant)]


def _sees(user: Any, version: Version, grant: Callable[[], Grant | None]) -> bool:
    if owns(user, version):
        return True
    vector = version.vector
    if vector is None:
        return False
    if version.state == Version.State.PUBLISHED:
        return vector.visibility == Visibility.PUBLIC or grant() is not None
    if version.state == Version.State.WITHDRAWN and version.withdrawn is not None:
        held = grant()
        return held is not None and held.created <= version.withdrawn
    return False


def may_read(user: Any, version: Version) -> bool:
    """Whether ``user`` may have the bytes of the version's files."""
    if owns(user, version):
        return True
    vector = version.vector
    if vector is None or not may_see(user, version):
        return False
    return vector.access == Access.OPEN or has_grant(user, vector)


def may_equip(user: Any, version: Version) -> bool:
    """Whether ``user`` may put the version on a model."""
    return version.state in (Version.State.PUBLISHED, Version.State.WITHDRAWN) and may_read(
        user, version
    )


def may_edit(user: Any, vector: Vector) -> bool:
    """Whether ``user`` may change the vector's page or publish versions of it."""
    return bool(user.is_authenticated and user.pk == vector.owner_id)


def has_grant(user: Any, vector: Vector) -> bool:
    """Whether ``user`` was given, bought or swapped the right to use the vector."""
    return grant_of(user, vector) is not None


def grant_of(user: Any, vector: Vector) -> Grant | None:
    """The right of ``user`` to use the vector."""
    if not user.is_authenticated:
        return None
    return Grant.objects.filter(user=user, vector_id=vector.pk).first()


def request_of(user: Any, vector: Vector) -> AccessRequest | None:
    """What ``user`` has asked of the vector's owner."""
    if not user.is_authenticated:
        return None
    return AccessRequest.objects.filter(user=user, vector_id=vector.pk).first()


def owns(user: Any, version: Version) -> bool:
    """Whether the version is the user's own."""
    return bool(user.is_authenticated and user.pk == version.owner_id)


def is_open(owner: Foundation | Version) -> bool:
    """Whether everybody may have the bytes: caches may keep them then."""
    if isinstance(owner, Foundation):
        return True
    vector = owner.vector
    return (
        owner.state == Version.State.PUBLISHED
        and vector is not None
        and vector.visibility == Visibility.PUBLIC
        and vector.access == Access.OPEN
    )
