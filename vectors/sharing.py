"""Who is let in: visibility, access, requests for access, grants. Each function is one verb.

A grant and the request that speaks of it always say the same: who has a grant has an accepted
request, whoever asked for what; no grant outlives a request that goes back or is declined.
"""

from __future__ import annotations

from typing import Any

from django.contrib.auth import get_user_model
from django.db import transaction
from django.utils import timezone

from vectors.access import has_grant
from vectors.announced import Conflict, NotFound
from vectors.errors import Refusal, _
from vectors.models import Access, AccessRequest, Claim, Grant, Vector, Visibility

# Rights that their owner paid for, which nobody takes back.
KEPT = (Grant.Origin.BOUGHT, Grant.Origin.SWAPPED)
State = AccessRequest.State


def set_visibility(row: Vector | Claim, *, to: str) -> None:
    """Show the repository to everybody, or to its owner and those who have a grant alone."""
    if to not in Visibility.values:
        raise Refusal(_("A vector is public or private, not “%(to)s”."), to=to[:40])
    row.visibility = to
    row.save(update_fields=["visibility"])


def set_access(row: Vector | Claim, *, to: str) -> None:
    """Say what it takes to read and equip it. Who is waiting is let in where asking is enough."""
    if to not in Access.values:
        raise Refusal(_("Access is open, auto, manual or paid, not “%(to)s”."), to=to[:40])
    with transaction.atomic():
        row.access = to
        row.save(update_fields=["access"])
        if isinstance(row, Vector) and to == Access.AUTO:
            for request in row.access_requests.filter(state=State.PENDING).select_related("user"):
                accept(request)


def ask_access(vector: Vector, *, user: Any, reason: str = "") -> AccessRequest:
    """Ask to be let in; where asking is enough, the grant comes at once.

    To ask again changes the reason. Raises Refusal where there is nothing to ask for.
    """
    if user.pk == vector.owner_id or has_grant(user, vector):
        raise Refusal(_("You have access to %(vector)s already."), vector=vector.repo_id)
    if vector.access == Access.OPEN:
        raise Refusal(_("%(vector)s is open to everyone."), vector=vector.repo_id)
    reason = " ".join(reason.split())[:400]
    with transaction.atomic():
        request, created = AccessRequest.objects.get_or_create(
            user=user, vector=vector, defaults={"reason": reason}
        )
        if request.state == State.REJECTED:
            raise Refusal(
                _("%(owner)s has declined your request for %(vector)s."),
                owner=vector.owner.get_username(),
                vector=vector.repo_id,
            )
        if reason and not created:
            request.reason = reason
            request.save(update_fields=["reason"])
        if vector.access == Access.AUTO:
            accept(request)
    return request


def accept(request: AccessRequest) -> None:
    """Let in who asked."""
    with transaction.atomic():
        _move(request, State.ACCEPTED)
        Grant.objects.get_or_create(
            user=request.user, vector=request.vector, defaults={"origin": Grant.Origin.ASKED}
        )


def reject(request: AccessRequest) -> None:
    """Decline the request; access that was given for it ends."""
    _close(request, State.REJECTED)


def reopen(request: AccessRequest) -> None:
    """Put the request back among those that wait; access that was given for it ends."""
    _close(request, State.PENDING)


def check_may_give(vector: Vector, *, user: Any) -> None:
    """Refuse who need not be let in."""
    if user.pk == vector.owner_id:
        raise Refusal(_("%(vector)s is your own."), vector=vector.repo_id)
    if has_grant(user, vector):
        raise Refusal(
            _("%(user)s has access to %(vector)s already."),
            user=user.get_username(),
            vector=vector.repo_id,
        )


def give(vector: Vector, *, user: Any) -> Grant:
    """Let somebody in who need not have asked."""
    check_may_give(vector, user=user)
    return let_in(vector, user=user, origin=Grant.Origin.GIVEN)


def let_in(vector: Vector, *, user: Any, origin: str) -> Grant:
    """The right of ``user`` to use the vector, with where it came from. Who had one keeps it; one
    that was paid for can no longer be taken back."""
    with transaction.atomic():
        grant, created = Grant.objects.get_or_create(
            user=user, vector=vector, defaults={"origin": origin}
        )
        if not created and origin in KEPT:
            grant.origin = origin
            grant.save(update_fields=["origin"])
        AccessRequest.objects.update_or_create(
            user=user,
            vector=vector,
            defaults={"state": State.ACCEPTED, "decided": timezone.now()},
        )
    return grant


def take_back(grant: Grant) -> None:
    """End a grant that was given. Recipes with the vector close for its user."""
    request, _created = AccessRequest.objects.get_or_create(
        user=grant.user, vector=grant.vector, defaults={"state": State.ACCEPTED}
    )
    _close(request, State.REJECTED)


def user_called(name: str) -> Any:
    """The user of that name. Raises Refusal."""
    found = get_user_model().objects.filter(username__iexact=name.strip(), is_active=True).first()
    if found is None:
        raise NotFound(_("Nobody here is called “%(name)s”."), name=name.strip()[:40])
    return found


def _close(request: AccessRequest, to: str) -> None:
    with transaction.atomic():
        grant = Grant.objects.select_for_update().filter(
            user=request.user_id, vector=request.vector_id
        )
        for each in grant:
            if each.origin in KEPT:
                raise Refusal(
                    _("%(user)s paid for access to %(vector)s: it cannot be taken back."),
                    user=request.user.get_username(),
                    vector=request.vector.repo_id,
                )
        _move(request, to)
        grant.delete()


def _move(request: AccessRequest, to: str) -> None:
    """Follow one arrow of the request by one UPDATE; Refusal when it is there already."""
    decided = None if to == State.PENDING else timezone.now()
    rows = AccessRequest.objects.filter(pk=request.pk).exclude(state=to)
    if rows.update(state=to, decided=decided) != 1:
        raise Conflict(_("This request has that answer already."))
    request.refresh_from_db(fields=["state", "decided"])
