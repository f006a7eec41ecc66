"""Writes: drafts, inspections, publication, likes. Each function is one verb."""

from __future__ import annotations

import logging
from contextlib import ExitStack, closing, suppress
from functools import partial
from typing import Any

from django.db import transaction
from django.db.models import F, Max
from django.utils import timezone

from vectors import leases, search, uploads
from vectors.commits import commit_of
from vectors.describe import check_free, check_name, claim_of, describe, fields_from_card
from vectors.detect import base_of
from vectors.drawing import sigil
from vectors.dropping import discard
from vectors.errors import Refusal, _, row_of
from vectors.files import called, open_files, open_weights
from vectors.firstlook import CARD, look
from vectors.inspection import Findings, inspect
from vectors.models import (
    Claim,
    Foundation,
    Inspection,
    Like,
    RepositoryFile,
    Upload,
    Vector,
    Version,
)
from vectors.probes import CONTROLS, PROBES, read_probes
from vectors.renaming import forget
from vectors.sketches import keep_sketch
from vectors.storage.current import storage
from vectors.tasks import run_inspection as inspection_task
from vectors.tensorfile.errors import Problem
from vectors.tensorfile.source import ByteSource
from vectors.twins import copy_sketch, inspected_twin

__all__ = [
    "CARD",
    "accept_like",
    "inspect_files",
    "keep_typed",
    "move",
    "prepare_draft",
    "publish",
    "refuse",
    "request_inspection",
    "restore",
    "run_inspection",
    "set_like",
    "withdraw",
]

log = logging.getLogger(__name__)


def _take_back(job_id: int) -> None:
    """Nobody goes on with this inspection: its draft goes back to its owner, to try again."""
    inspecting = Version.objects.filter(inspection=job_id, state=Version.State.INSPECTING)
    inspecting.update(state=Version.State.RECEIVED)


leases.register(
    Inspection, lambda pk: inspection_task.apply_async((pk,), retry=False), given_up=_take_back
)


def move(version: Version, to: str, *, at: str = "", **fields: Any) -> None:
    """Follow one arrow of Version's state machine (the one from ``at``, where that is said), by
    one UPDATE; Refusal when it is not there."""
    froms = [s for s, goals in Version.ARROWS.items() if to in goals and at in ("", s)]
    changed = Version.objects.filter(pk=version.pk, state__in=froms).update(state=to, **fields)
    if changed != 1:
        raise Refusal(_("This version is in another state by now. Reload the page."))
    version.refresh_from_db()


def prepare_draft(version: Version) -> None:
    """Read the headers of a received draft: its form, its likely foundation, its card's fields.

    The result is kept in ``version.draft``; a draft that can never become a vector is refused.
    """
    if version.state != Version.State.RECEIVED or "form" in version.draft:
        return
    known = version.vector.foundation if version.vector else None
    try:
        with ExitStack() as stack:
            files = {
                upload.path: stack.enter_context(closing(called(upload.path, _arrived(upload))))
                for upload in version.uploads.all()
            }
            seen = look(files, known=known, find=partial(base_of, user=version.owner))
    except Problem as problem:
        # Who has the draft open twice may be further on there: then the files are gone from here.
        with suppress(Refusal):
            refuse(version, problem, at=Version.State.RECEIVED)
        version.refresh_from_db()
        return
    looked_at = Version.objects.filter(pk=version.pk, state=Version.State.RECEIVED)
    looked_at.update(draft=seen.as_draft(), form=seen.form, foundation=seen.guess.foundation)
    version.refresh_from_db()


def _arrived(upload: Upload) -> ByteSource:
    if upload.state == Upload.State.RECEIVED:
        return storage().open_staged(str(upload.pk))
    return storage().open(upload.blob_id or "")


def request_inspection(version: Version, *, foundation: Foundation) -> Inspection:
    """Start (or start again) the inspection of a draft against ``foundation``."""
    _check_foundation(version.vector, foundation)
    with transaction.atomic():
        move(version, Version.State.INSPECTING, foundation=foundation, verdict={}, refusal={})
        Inspection.objects.filter(version=version).delete()
        job = Inspection.objects.create(version=version)
        leases.ring(job)
    return job


def _check_foundation(vector: Vector | None, foundation: Foundation) -> None:
    if vector and vector.foundation_id != foundation.pk:
        raise Refusal(
            _("%(vector)s is a vector of %(foundation)s, and so are all its versions."),
            vector=vector.repo_id,
            foundation=vector.foundation.repo_id,
        )


def run_inspection(job_id: int) -> None:
    """Do an inspection, if nobody else is on it. Safe to call any number of times."""
    lease = leases.claim(Inspection, job_id)
    if lease is None:
        return
    version = Inspection.objects.get(pk=job_id).version
    with lease:
        try:
            _finish_inspection(version, lease)
        except leases.LeaseLost:
            # Whatever went wrong here, too: the files may be gone under the one who is too late.
            return


def _finish_inspection(version: Version, lease: leases.Lease) -> None:
    try:
        twin = inspected_twin(version)
        findings = _inspect(version, lease) if twin is None else None
        with transaction.atomic():
            _hold_repository(version)
            lease.finish()
            if findings is not None:
                _accept(version, findings)
            elif twin is not None:
                accept_like(version, twin)
            if version.is_pushed:
                publish(version)
    except leases.LeaseLost:
        raise
    except Problem as problem:
        with transaction.atomic():
            lease.finish(leases.JobState.FAILED, error=str(problem))
            refuse(version, problem)
    except Exception as error:
        # Not the upload's fault: the draft goes back, so that its owner can try again.
        with transaction.atomic():
            lease.finish(leases.JobState.FAILED, error=_("The inspection broke. Try again."))
            move(version, Version.State.RECEIVED)
        log.error("the inspection of version %s broke", version.pk, exc_info=error)


def _inspect(version: Version, lease: leases.Lease) -> Findings:
    sent = sum(upload.size for upload in version.uploads.all())
    done = 0

    def hashed(count: int) -> None:
        nonlocal done
        done += count
        lease.progress("hashing", done, 2 * sent)

    for upload in version.uploads.all():
        blob = uploads.seal(upload, on_bytes=hashed)
        lease.check()
        RepositoryFile.objects.get_or_create(
            version=version, path=upload.path, defaults={"blob": blob}
        )
    assert version.foundation is not None
    return inspect_files(
        version,
        version.foundation,
        lambda at, of: lease.progress("checking", sent + at, sent + of),
    )


def inspect_files(version: Version, foundation: Foundation, on_progress: Any) -> Findings:
    """Inspect the stored files of ``version`` against ``foundation``. Raises Problem."""
    files: dict[str, ByteSource] = open_files(version)
    base = open_weights(foundation)
    try:
        for path in (PROBES, CONTROLS):
            if path in files:
                read_probes(files[path])
        findings = inspect(files, foundation, base, on_progress)
        twin = (
            Version.objects.public()
            .filter(digest=findings.digest, foundation=foundation)
            .exclude(pk=version.pk)
            .first()
        )
        if twin is not None:
            findings.verdict["warnings"].append(
                {
                    "template": _("It is the same vector as %(twin)s, value for value."),
                    "params": {"twin": str(twin)},
                }
            )
        return findings
    finally:
        base.close()
        for source in files.values():
            source.close()


def _accept(version: Version, findings: Findings) -> None:
    _make_ready(
        version,
        form=findings.form,
        digest=findings.digest,
        verdict=findings.verdict,
        layers=findings.layers,
        sigil=sigil(findings.layers, findings.digest),
    )
    keep_sketch(version, findings.sketch)


def accept_like(version: Version, twin: Version) -> None:
    """Take over the verdict on ``twin``, whose weights are the very same."""
    _make_ready(
        version,
        form=twin.form,
        digest=twin.digest,
        verdict=twin.verdict,
        layers=twin.layers,
        sigil=twin.sigil,
    )
    copy_sketch(twin, version)


def _make_ready(version: Version, **found: Any) -> None:
    fields = version.draft.get("fields", {})
    move(
        version,
        Version.State.READY,
        **found,
        nbytes=sum(file.size for file in version.files.select_related("blob")),
        card=version.draft.get("card", ""),
        abilities=fields.get("abilities", []),
        examples=fields.get("examples", []),
    )


def refuse(version: Version, problem: Problem, *, at: str = Version.State.INSPECTING) -> None:
    """End a draft that is ``at`` this state with one clear sentence; none of its bytes stay."""
    with transaction.atomic():
        move(version, Version.State.REFUSED, at=at, refusal=row_of(problem))
        uploads.drop_bytes(version)


def publish(
    version: Version,
    *,
    name: str = "",
    fields: dict[str, Any] | None = None,
    card: str | None = None,
) -> Vector:
    """Publish an inspected draft: as the first version of a new vector, or the next of its own.

    ``fields`` are those of ``fields_from_card``, as the owner edited them.
    """
    if version.state != Version.State.READY or version.foundation is None:
        raise Refusal(_("Only a version that passed its inspection can be published."))
    text = version.card if card is None else card
    values = fields if fields is not None else fields_from_card(text)
    namespace, pushed = version.owner.get_username(), version.is_pushed
    with transaction.atomic():
        _hold_repository(version)
        vector, claim = version.vector, version.claim
        _check_foundation(vector, version.foundation)
        if vector is None:
            claim = claim or claim_of(namespace, name)
            name = claim.name if claim else name
            check_name(name)
            check_free(namespace, name, but=claim)
            forget(namespace, name)
            vector = Vector(
                namespace=namespace, name=name, owner=version.owner, foundation=version.foundation
            )
            if claim:
                vector.visibility, vector.access = claim.visibility, claim.access
        describe(vector, text, values)
        vector.save()
        last = vector.versions.aggregate(last=Max("number"))["last"] or 0
        move(
            version,
            Version.State.PUBLISHED,
            vector=vector,
            claim=None,
            at=Version.State.READY,
            number=last + 1,
            card=text,
            published=timezone.now(),
            draft={},
            commit=commit_of(version),
        )
        if claim:
            claim.versions.update(vector=vector, claim=None)
            claim.delete()
        vector.current = version
        vector.save(update_fields=["current"])
        search.index(vector)
        version.uploads.all().delete()
        if pushed:
            for older in vector.versions.filter(number=None, pk__lt=version.pk).exclude(commit=""):
                discard(older)
    return vector


def keep_typed(version: Version, typed: dict[str, str]) -> None:
    """Keep what its owner typed for the publication of a draft that passed its inspection."""
    version.draft = {**version.draft, "typed": typed}
    ready = Version.objects.filter(pk=version.pk, state=Version.State.READY)
    ready.update(draft=version.draft)


def _hold_repository(version: Version) -> None:
    """Whoever publishes in the version's repository at the same time waits until this transaction
    ends. What they changed in the meantime is read anew: a claim may have become a vector."""
    if version.claim_id:
        Claim.objects.select_for_update().filter(pk=version.claim_id).first()
    version.refresh_from_db(fields=["claim", "vector"])
    if version.vector_id:
        version.vector = Vector.objects.select_for_update().get(pk=version.vector_id)


def withdraw(version: Version) -> None:
    """Take a published version off the shelves: nobody new gets it. It stays for its owner and
    those who have a grant by now."""
    with transaction.atomic():
        _hold_repository(version)
        move(version, Version.State.WITHDRAWN, withdrawn=timezone.now())
        _choose_current(version)


def restore(version: Version) -> None:
    """Put a withdrawn version back."""
    with transaction.atomic():
        _hold_repository(version)
        move(version, Version.State.PUBLISHED, at=Version.State.WITHDRAWN, withdrawn=None)
        _choose_current(version)


def _choose_current(version: Version) -> None:
    vector = version.vector
    assert vector is not None
    newest = vector.versions.published().order_by("-number").first()
    vector.current = newest or version
    vector.save(update_fields=["current"])


def set_like(user: Any, vector: Vector, liked: bool) -> None:
    """Like or unlike; the count on the vector follows exactly."""
    with transaction.atomic():
        if liked:
            _like, created = Like.objects.get_or_create(user=user, vector=vector)
            change = 1 if created else 0
        else:
            change = -Like.objects.filter(user=user, vector=vector).delete()[0]
        if change:
            Vector.objects.filter(pk=vector.pk).update(likes=F("likes") + change)
