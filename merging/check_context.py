"""What the pages show of ability checks: how far a job is, and its table in words and numbers."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from django.conf import settings as site
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from merging.checks.models import AbilityCheck, CheckJob, VersionCheck
from merging.checks.plan import ALONE_ON_ALL
from merging.checks.services import RETRY_AFTER, largest
from merging.checks.table import (
    ASKED,
    CONTROL,
    FORGOTTEN,
    KEPT,
    LEARNED,
    REVERSED,
    TARGET,
    TERM,
)
from merging.engine.recipe import coefficient_text
from merging.models import EquippedModel
from vectors.access import may_see
from vectors.errors import explain_row
from vectors.leases import JobState
from vectors.models import RepositoryFile, Vector
from vectors.probes import CONTROLS, PROBES

WORDS = {
    LEARNED: gettext_lazy("learned"),
    KEPT: gettext_lazy("kept"),
    FORGOTTEN: gettext_lazy("forgotten"),
    REVERSED: gettext_lazy("reversed"),
}
GROUPS = {
    TERM: gettext_lazy("What its vectors are for"),
    TARGET: gettext_lazy("What the target can do"),
    ASKED: gettext_lazy("Asked beside them"),
    CONTROL: gettext_lazy("Controls: what should stay as it is"),
}
KINDS = {LEARNED: "learn", KEPT: "same", FORGOTTEN: "forget", REVERSED: "reverse"}
CHOICES = 60


def check_context(row: EquippedModel, user: Any) -> dict[str, Any]:
    """The check of a recipe for ``merging/_checks.html``."""
    job = AbilityCheck.objects.filter(equipped=row).first()
    ours = has_something_to_ask(row)
    table = table_of(job, row, user) if job is not None and job.result else None
    return {
        "check": job,
        "check_job": "check",
        "check_progress": progress_of(job) if job is not None and not job.ended else None,
        "check_problem": problem_of(job),
        "may_stop_check": may_stop(job, user),
        "table": table,
        "too_large": row.nbytes > largest(),
        "largest": largest(),
        "has_probes": ours,
        "more_probes": [] if row.nbytes > largest() else more_probes(row, user),
    }


def has_something_to_ask(row: EquippedModel) -> bool:
    """Whether a check would ask anything, from names of files alone."""
    versions = [term.version_id for term in row.terms.all()]
    mine = RepositoryFile.objects.filter(version__in=versions, path__in=(PROBES, CONTROLS))
    base = RepositoryFile.objects.filter(foundation=row.foundation_id, path=CONTROLS)
    onto = RepositoryFile.objects.filter(version=row.target_id, path=PROBES)
    found = mine | base | (onto if row.target_id else RepositoryFile.objects.none())
    return bool(found.exists())


def more_probes(row: EquippedModel, user: Any) -> list[Vector]:
    """Other vectors of the foundation whose probes may be asked as well."""
    if not user.is_authenticated:
        return []
    asked = Vector.objects.usable_by(user).filter(foundation=row.foundation_id)
    asked = asked.filter(current__files__path=PROBES)
    terms = [term.version_id for term in row.terms.all()]
    return list(asked.exclude(current__in=terms).for_cards().order_by("name")[:CHOICES])


def may_stop(job: CheckJob | None, user: Any) -> bool:
    """Whether ``user`` may stop the job: who asked for it, and who keeps the shop."""
    if job is None or job.ended or not user.is_authenticated:
        return False
    return bool(job.requested_by_id == user.pk or user.is_staff)


def problem_of(job: CheckJob | None) -> str:
    """Why the job ended without a result, in the reader's language; empty where it did not."""
    if job is None or job.state != JobState.FAILED:
        return ""
    return _(job.error) if job.error else _("The check broke. Try again.")


def standing_of(job: VersionCheck) -> dict[str, Any]:
    """What a version's owner is told of its measurement: that it is under way, or what failed and
    why. Empty where all of it is there."""
    if not job.ended:
        if site.ARMORY_CHECKS_AT_ONCE == 0:
            return {}
        return {"state": "waiting", "label": progress_of(job)["label"]}
    if job.state == JobState.FAILED:
        known = job.refusal and explain_row(job.refusal)
        return {
            "state": "failed",
            "reasons": [{"text": known or problem_of(job)}],
            "by_itself": not job.refusal
            and job.retries < len(RETRY_AFTER)
            and site.ARMORY_CHECKS_AT_ONCE > 0,
        }
    missing = job.result.get("problems", [])
    labels = {"target": str(job.version.foundation), "equipped": str(job.version)}
    names = {each["ability"] for each in missing}
    reasons = problems_of(job.result, labels, names) if missing else []
    return {"state": "partly", "reasons": reasons} if reasons else {}


def progress_of(job: CheckJob) -> dict[str, Any]:
    """How far a job is, in words and numbers."""
    stage = job.stage if job.state == JobState.RUNNING else JobState.QUEUED
    labels = {
        JobState.QUEUED: _("Waiting for its turn"),
        "": _("Getting ready"),
        "writing": _("Writing a model to ask"),
        "asking": _("Asking the models"),
    }
    label = labels.get(stage, _("Getting ready"))
    done, total = (job.done_bytes, job.total_bytes) if job.state == JobState.RUNNING else (0, 0)
    detail = ngettext("%(done)s of %(n)s answer", "%(done)s of %(n)s answers", total)
    quarter = 25 * (done * 4 // total) if total else 0
    return {
        "state": job.state,
        "label": label,
        "detail": detail % {"done": f"{done:,}", "n": f"{total:,}"} if total else "",
        "done": done,
        "total": total,
        "live": _("%(label)s, %(n)d %%") % {"label": label, "n": quarter} if total else label,
        "ended": job.ended,
        "said": problem_of(job) or (_("The result is there.") if job.ended else ""),
    }


# --- the table -------------------------------------------------------------------------------


def table_of(job: AbilityCheck, row: EquippedModel, user: Any) -> dict[str, Any]:
    """The result of a check as columns, groups of rows, and what stands above them."""
    result = job.result
    known = known_beside(job, user)
    rows = [each for each in result["abilities"] if _shown(each, known)]
    columns = columns_of(result["models"], row)
    shown = [row_of(each, columns, row) for each in rows]
    groups = [
        {"title": title, "rows": [each for each in shown if each["role"] == role], "role": role}
        for role, title in GROUPS.items()
    ]
    return {
        "measured": result["measured"],
        "shape": result["shape"],
        "columns": columns,
        "groups": [group for group in groups if group["rows"]],
        "counts": counts_of(rows),
        "pairs": pairs_of(result["shape"], shown, columns),
        "together": bool(result.get("together")),
        "problems": problems_of(
            result,
            {column["key"]: column["label"] for column in columns},
            {each["name"] for each in rows},
        ),
    }


def known_beside(job: AbilityCheck, user: Any) -> set[str]:
    """Versions whose probes were asked for beside the recipe's own and that ``user`` may know of:
    whoever asked may have been let in. Under all their names, because a result keeps those of its
    day."""
    also = job.also.select_related("vector").prefetch_related("vector__former_names")
    return {
        f"{name} v{version.number}".lower()
        for version in also
        if version.vector is not None and may_see(user, version)
        for name in (version.vector, *version.vector.former_names.all())
    }


def _shown(each: dict[str, Any], known: set[str]) -> bool:
    return each["role"] != ASKED or each["of"].lower() in known


def columns_of(models: Sequence[dict[str, str]], row: EquippedModel) -> list[dict[str, str]]:
    """Target, each vector alone, the equipped model. What an analogy starts from comes last
    before the result; of many vectors each row shows its own alone, in one column."""
    labels = {str(t.version): t.version.vector.label for t in row.terms.all() if t.version.vector}
    target = row.target.vector if row.target is not None and row.target.vector else row.foundation
    alone = [
        {"key": model["key"], "label": labels.get(model["label"], model["label"]), "what": "alone"}
        for model in models
        if model["key"].startswith("alone-")
    ]
    start = _start_of_analogy(row)
    alone.sort(key=lambda each: each["key"] == start)
    if len(alone) > ALONE_ON_ALL:
        alone = [{"key": "own", "label": _("its vector"), "what": "alone"}]
    return [
        {"key": "target", "label": target.label, "what": "target"},
        *alone,
        {"key": "equipped", "label": _("equipped"), "what": "equipped"},
    ]


def _start_of_analogy(row: EquippedModel) -> str:
    """C of C + λ(B − A): the vector that is added and is not weighed as what is taken away."""
    terms = list(row.terms.all())
    added = [term for term in terms if term.coefficient > 0]
    taken = [term for term in terms if term.coefficient < 0]
    if (len(added), len(taken)) != (2, 1):
        return ""
    other = [term for term in added if term.coefficient != -taken[0].coefficient]
    return f"alone-{(other or added)[0].version.digest[:16]}"


def row_of(
    each: dict[str, Any], columns: Sequence[dict[str, str]], row: EquippedModel
) -> dict[str, Any]:
    """One ability for the table: a cell per column, the change, the word for it."""
    scores = each["scores"]
    own = next((f"alone-{t.version.digest[:16]}" for t in row.terms.all()
                if str(t.version) == each["of"]), "")  # fmt: skip
    word = each.get("verdict", "")
    coefficient = Decimal(each["coefficient"]) if each["coefficient"] else None
    return {
        **{key: each[key] for key in ("name", "metric", "role", "n")},
        "of": each["of"].rsplit("/", 1)[-1],
        "sign": "" if coefficient is None else "−" if coefficient < 0 else "+",
        "coefficient": "" if coefficient is None else coefficient_text(abs(coefficient)),
        "cells": [
            {**column, **score_of(scores.get(own if column["key"] == "own" else column["key"]))}
            for column in columns
        ],
        "change": signed(each["change"]) if word else "",
        "change_interval": f"{signed(each['change_low'])} … {signed(each['change_high'])}"
        if word
        else "",
        "verdict": word,
        "word": WORDS.get(word, ""),
        "kind": KINDS.get(word, "same"),
        "kept_share": each.get("kept_share"),
        "bar": bar_of(scores.get("target"), scores.get("equipped"), each["chance"]),
    }


def score_of(score: dict[str, Any] | None) -> dict[str, str]:
    """A share with its interval, as texts; empty where nothing was measured."""
    if score is None:
        return {"text": "", "interval": ""}
    return {"text": f"{score['share']:.3f}", "interval": f"{score['low']:.2f}–{score['high']:.2f}"}


def signed(change: float) -> str:
    """``+0.271``, ``−0.020``: the sign is printed."""
    return f"{change:+.3f}".replace("-", "−")


def bar_of(
    before: dict[str, Any] | None, after: dict[str, Any] | None, chance: float | None
) -> dict[str, Any] | None:
    """Places 0–100 of the small picture beside the numbers."""
    if before is None or after is None:
        return None
    places = {"x0": before["share"], "x1": after["share"], "low": after["low"]}
    places |= {"high": after["high"]} | ({"chance": chance} if chance else {})
    return {key: f"{100 * value:.1f}" for key, value in places.items()}


def counts_of(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """How many abilities were learned, kept, forgotten, reversed."""
    found = [each.get("verdict") for each in rows]
    return [
        {"n": found.count(word), "word": text, "kind": KINDS[word]}
        for word, text in WORDS.items()
        if word in found
    ]


def pairs_of(
    shape: str, rows: Sequence[dict[str, Any]], columns: Sequence[dict[str, str]]
) -> list[dict[str, Any]]:
    """What the operation is judged by, before → after: of a subtraction the ability beside the
    controls; of an analogy what it should reach, from the vector that it starts from."""
    if shape == "subtraction":
        chosen = [each for each in rows if each["role"] in (TERM, CONTROL)]
        return [_pair(each, 0, "") for each in chosen]
    if shape == "analogy":
        place = len(columns) - 2
        chosen = [each for each in rows if each["role"] == ASKED]
        label = columns[place]["label"]
        return [_pair(each, place, label) for each in chosen]
    return []


def _pair(each: dict[str, Any], place: int, label: str) -> dict[str, Any]:
    return {
        "name": each["name"],
        "control": each["role"] == CONTROL,
        "from": label,
        "metric": each["metric"],
        "without": each["cells"][place]["text"],
        "with_": each["cells"][-1]["text"],
        "n": each["n"],
    }


def problems_of(
    result: dict[str, Any], labels: dict[str, str], names: set[str]
) -> list[dict[str, str]]:
    """What could not be measured, with the reason, of the abilities ``names``; ``labels`` of the
    models by key."""
    return [
        {
            "model": labels.get(each["model"], ""),
            "ability": each["ability"],
            "text": explain_row(each),
        }
        for each in result["problems"]
        if not each["ability"] or each["ability"] in names
    ]
