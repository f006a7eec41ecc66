"""Repository ids: claimed before anything is published, changed, given up, forgotten."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import F, Max, ProtectedError, QuerySet
from django.db.models.functions import Coalesce
from django.utils import timezone

from vectors import search
from vectors.announced import Conflict, Forbidden
from vectors.describe import check_free, check_name, search_text_of
from vectors.dropping import discard, drop_bytes, drop_unreferenced
from vectors.errors import _
from vectors.models import Claim, Grant, Vector, Version, Visibility
from vectors.renaming import forget, remember

MAX_CLAIMS = 50  # of one owner: names are scarce, and an empty one helps nobody
# How long a name without a publication, and a push without all of its weights, are kept after the
# last push. Long enough for a training that pushes at its end.
KEPT = timedelta(days=90)


def check_own(user: Any, namespace: str) -> None:
    """Refuse a namespace that is not the user's own name."""
    if namespace.lower() != user.get_username().lower():
        raise Forbidden(
            _("Your repositories begin with your own name, %(own)s/, and not with %(other)s/."),
            own=user.get_username(),
            other=namespace[:100],
        )


def claim(*, owner: Any, name: str, visibility: str = Visibility.PUBLIC) -> Claim:
    """Keep ``owner/name`` for its owner, to push to. Raises Refusal when it cannot be."""
    check_name(name)
    namespace = owner.get_username()
    if owner.claims.count() >= MAX_CLAIMS:
        raise Conflict(
            _(
                "You have %(count)d repositories in which nothing is published yet, and no more "
                "are kept. Push to one of them, or delete one."
            ),
            count=MAX_CLAIMS,
        )
    try:
        with transaction.atomic():
            check_free(namespace, name)
            return Claim.objects.create(
                owner=owner, namespace=namespace, name=name, visibility=visibility
            )
    except IntegrityError as error:  # two clients at the same moment
        raise Conflict(_("%(id)s exists already."), id=f"{namespace}/{name}") from error


def claims_by_touch() -> QuerySet[Any]:
    """Every claim with ``touched``: when something was pushed to it last, or it was made."""
    return Claim.objects.annotate(touched=Coalesce(Max("versions__created"), F("created")))


def incomplete() -> QuerySet[Version]:
    """Every push that waits for the rest of its weights."""
    return Version.objects.filter(state=Version.State.UPLOADING).exclude(commit="")


def expire_claims() -> int:
    """Give up names and incomplete pushes that nobody went on with. Called by a sweep; how many."""
    before = timezone.now() - KEPT
    given_up = 0
    for stale in claims_by_touch().filter(touched__lt=before):
        with transaction.atomic():
            # Who pushes to it at this moment holds it: then it is not stale any more.
            held = Claim.objects.select_for_update().filter(pk=stale.pk).first()
            if held is None or held.versions.filter(created__gte=before).exists():
                continue
            delete(held)
            given_up += 1
    for push in incomplete().filter(created__lt=before):
        discard(push)
        given_up += 1
    return given_up


def rename(repository: Vector | Claim, *, name: str) -> None:
    """Give the repository another name. Recipes name versions, so that all of them go on; the old
    name of a vector leads to the new one."""
    check_name(name)
    with transaction.atomic():
        before = repository.name
        if name.lower() != before.lower():
            check_free(repository.namespace, name)
        repository.name = name
        try:
            with transaction.atomic():
                repository.save(update_fields=["name"])
        except IntegrityError as error:  # two clients at the same moment
            raise Conflict(
                _("%(id)s exists already."), id=f"{repository.namespace}/{name}"
            ) from error
        if isinstance(repository, Vector):
            forget(repository.namespace, name)
            if name.lower() != before.lower():
                remember(repository, before)
            repository.search_text = search_text_of(repository)
            repository.save(update_fields=["search_text"])
            search.index(repository)


def delete(repository: Vector | Claim) -> None:
    """Delete the repository with all that is in it. What recipes use stays: Conflict."""
    try:
        with transaction.atomic():
            if isinstance(repository, Vector):
                _delete_versions(repository)
            for draft in repository.versions.all():
                discard(draft)
            repository.delete()
    except ProtectedError as error:
        raise _in_use(repository) from error


def _in_use(repository: Vector | Claim) -> Conflict:
    return Conflict(
        _(
            "Others rely on %(id)s, so it cannot be deleted. Withdraw its versions on its page "
            "instead: then nobody new finds it."
        ),
        id=repository.repo_id,
    )


def _delete_versions(vector: Vector) -> None:
    if vector.grants.filter(origin__in=(Grant.Origin.BOUGHT, Grant.Origin.SWAPPED)).exists():
        raise _in_use(vector)
    covers = [sha256 for sha256 in (vector.cover_id, vector.cover_small_id) if sha256]
    transaction.on_commit(partial(drop_unreferenced, covers), robust=True)
    vector.current = None
    vector.save(update_fields=["current"])
    shelved = [Version.State.PUBLISHED, Version.State.WITHDRAWN]
    for version in vector.versions.filter(state__in=shelved):
        drop_bytes(version)
        version.delete()
    search.forget(vector.pk)
