"""Base models as cards name them: which foundation is meant, and which names are close."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import Any

from marketplace.hub.equipped import find_equipped
from marketplace.hub.errors import HubError
from marketplace.hub.requests import Caller
from vectors.cards import read_card
from vectors.detect import base_of, by_name, named_bases
from vectors.errors import _
from vectors.models import Form, Foundation, Vector

# A folder on somebody's machine: the tensors tell what it is.
_LOCAL = re.compile(r"[./~\\].*|[A-Za-z]:.*|.*/.*/.*")
CLOSE = 3  # names suggested, and unknown names for which others are: each costs a catalogue


def find_base(name: str, caller: Caller) -> Foundation | None:
    """The foundation that ``name`` means: its own, that of a whole fine-tune, or that of an
    equipped model."""
    namespace, _slash, slug = name.partition("/")
    if namespace == "equipped":
        try:
            equipped: Any = find_equipped(namespace, slug, caller)
        except HubError:
            return None
        found: Foundation = equipped.row.foundation
        return found
    return base_of(name, caller.user)


def check_card(content: str, caller: Caller) -> tuple[list[str], list[str]]:
    """Errors and warnings about the front matter of a card."""
    card = read_card(content)
    if card.problem:
        return [_("The front matter cannot be read: %(place)s.") % {"place": card.problem}], []
    errors: list[str] = []
    warnings: list[str] = []
    for name in named_bases(card.data, {}):
        found = find_base(name, caller)
        if found is not None:
            if by_name(name) == found and name.lower() != found.repo_id.lower():
                warnings.append(
                    _("base_model: %(name)s is taken for %(foundation)s.")
                    % {"name": name[:200], "foundation": found.repo_id}
                )
            continue
        if _LOCAL.fullmatch(name):
            warnings.append(
                _("base_model is a folder (%(name)s); the foundation is found by the tensors.")
                % {"name": name[:200]}
            )
        else:
            errors.append(_unknown(name, caller, suggest=len(errors) < CLOSE))
    return errors, warnings


def _unknown(name: str, caller: Caller, *, suggest: bool) -> str:
    vector = _vector_named(name, caller)
    if vector is not None:
        return _(
            "base_model: %(name)s is not a whole model but added to one. Name %(foundation)s."
        ) % {"name": vector.repo_id, "foundation": vector.foundation.repo_id}
    sentence = _("base_model: %(name)s is not here.") % {"name": name[:200]}
    close = close_names(name, caller) if suggest else []
    if close:
        return f"{sentence} " + _("Close to it: %(names)s.") % {"names": ", ".join(close)}
    return f"{sentence} " + _("The foundations that are here are listed at /foundations.")


def _vector_named(name: str, caller: Caller) -> Vector | None:
    seen: Any = Vector.objects.visible_to(caller.user).called(name)
    found: Vector | None = seen.select_related("foundation").first()
    return found


def close_names(name: str, caller: Caller) -> list[str]:
    """Ids of foundations and whole fine-tunes that look like ``name``, or end like it."""
    whole = Vector.objects.visible_to(caller.user).filter(current__form=Form.FULL)
    rows = [
        *Foundation.objects.values_list("namespace", "name"),
        *whole.values_list("namespace", "name")[:2000],
    ]
    ids = {f"{namespace}/{short}".lower(): f"{namespace}/{short}" for namespace, short in rows}
    ends = {short.lower(): f"{namespace}/{short}" for namespace, short in reversed(rows)}
    wanted = name.lower()
    close = [ids[each] for each in get_close_matches(wanted, ids, CLOSE, 0.6)]
    last = wanted.rpartition("/")[2]
    close += [ends[each] for each in get_close_matches(last, ends, CLOSE, 0.6)]
    return list(dict.fromkeys(close))[:CLOSE]
