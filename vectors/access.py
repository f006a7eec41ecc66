"""Who may see and use what. This module owns the question and asks nobody above.

A published version may be seen and equipped by everyone; a draft or a withdrawn version only by
its owner.
"""

from __future__ import annotations

from typing import Any

from vectors.models import Vector, Version


def may_see(user: Any, version: Version) -> bool:
    """Whether ``user`` (possibly anonymous) may see the version's page and files."""
    return version.state == Version.State.PUBLISHED or _owns(user, version.owner_id)


def may_equip(user: Any, version: Version) -> bool:
    """Whether ``user`` may put the version on a model."""
    if version.state == Version.State.PUBLISHED:
        return True
    return version.state == Version.State.WITHDRAWN and _owns(user, version.owner_id)


def may_edit(user: Any, vector: Vector) -> bool:
    """Whether ``user`` may change the vector's page or publish versions of it."""
    return _owns(user, vector.owner_id)


def _owns(user: Any, owner_id: int) -> bool:
    return bool(user.is_authenticated and user.pk == owner_id)
