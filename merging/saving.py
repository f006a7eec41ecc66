"""Loadouts that somebody keeps: a name and a query string under an address of its own."""

from __future__ import annotations

import secrets
from typing import Any

from django.utils.translation import gettext

from merging.engine.errors import RecipeError, _
from merging.models import SavedLoadout

MOST = 200  # kept by one person
UNNAMED = _("Loadout")


def save_loadout(*, user: Any, name: str, query: str) -> SavedLoadout:
    """Keep a loadout. The same state under the same name is kept once. Raises RecipeError."""
    name = name or gettext(UNNAMED)
    kept = SavedLoadout.objects.filter(owner=user)
    found = kept.filter(name=name, query=query).first()
    if found is not None:
        return found
    if kept.count() >= MOST:
        raise RecipeError(
            _("You keep %(count)d loadouts, which is the most. Delete one you no longer need."),
            count=MOST,
        )
    slug = secrets.token_urlsafe(9).replace("-", "a").replace("_", "b")
    return SavedLoadout.objects.create(slug=slug, owner=user, name=name, query=query)
