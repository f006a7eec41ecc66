"""What the pages show of a coefficient sweep: curves as pictures, the numbers under them."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from django.utils.translation import gettext as _

from merging.check_context import may_stop, problem_of, problems_of, progress_of, score_of
from merging.checks.models import CoefficientSweep
from merging.engine.methods import get_method
from merging.models import EquippedModel
from merging.reopening import loadout_url
from merging.sweep_form import SweepForm

# The picture: places in its own units.
WIDTH, HEIGHT = 320, 176
LEFT, RIGHT, TOP, BOTTOM = 34, 10, 12, 26
SHOWN = 6


def sweep_context(
    row: EquippedModel, user: Any, *, wanted: str = "", form: SweepForm | None = None
) -> dict[str, Any]:
    """The sweeps of a recipe for ``merging/_sweep.html``; ``wanted`` is the key of the one shown,
    else it is the newest."""
    sweeps = list(row.sweeps.order_by("-created")[:SHOWN])
    asked = row.sweeps.filter(key__startswith=wanted).first() if wanted.isalnum() else None
    job = asked or (sweeps[0] if sweeps else None)
    return {
        "weighted": get_method(row.recipe.method).weighted and bool(row.recipe.terms),
        "sweep_form": form or SweepForm(row),
        "sweep": job,
        "sweep_job": job_name(job) if job is not None else "",
        "sweep_progress": progress_of(job) if job is not None and not job.ended else None,
        "sweep_problem": problem_of(job),
        "may_stop_sweep": may_stop(job, user),
        "curves": curves_of(job, row) if job is not None and job.result else None,
        "other_sweeps": [
            {"key": job_name(each), "label": range_of(each.settings)}
            for each in sweeps
            if job is not None and each.pk != job.pk
        ],
    }


def job_name(job: CoefficientSweep) -> str:
    """How addresses name a sweep."""
    return job.key[:12]


def range_of(settings: Sequence[Sequence[str]]) -> str:
    """A sweep in a few words: its first and its last setting."""
    first, last = (" / ".join(setting) for setting in (settings[0], settings[-1]))
    return f"{first} … {last}".replace("-", "−")


def curves_of(job: CoefficientSweep, row: EquippedModel) -> dict[str, Any]:
    """Pictures, the table under them, and the setting that the rule recommends."""
    result = job.result
    settings = [[Decimal(text) for text in setting] for setting in result["settings"]]
    axis = _moving(settings)
    order = sorted(range(len(settings)), key=lambda i: settings[i][axis])
    best = result["best"]
    at = best["index"] if best is not None else None
    labels = [_setting(setting) for setting in settings]
    steps = [
        {
            "label": labels[i],
            "best": i == at,
            "url": loadout_url(row, settings[i]),
            "cells": [
                {
                    "name": curve["name"],
                    **score_of(curve["points"][i]),
                    "kept": curve["kept"][i],
                }
                for curve in result["curves"]
            ],
        }
        for i in order
    ]
    xs = [float(settings[i][axis]) for i in order]
    return {
        "measured": result["measured"],
        "drawn": [_drawn(n, curve, order, xs, at) for n, curve in enumerate(result["curves"])],
        "names": [curve["name"] for curve in result["curves"]],
        "steps": steps,
        "best": _best(best, labels, loadout_url(row, settings[at]) if at is not None else ""),
        "problems": problems_of(
            result,
            {f"setting-{n}": label for n, label in enumerate(labels)},
            {curve["name"] for curve in result["curves"]},
        ),
    }


def _moving(settings: Sequence[Sequence[Decimal]]) -> int:
    """The first coefficient that differs: what the picture has along its axis."""
    for place, values in enumerate(zip(*settings, strict=True)):
        if len(set(values)) > 1:
            return place
    return 0


def _setting(setting: Sequence[Decimal]) -> str:
    texts = [f"{value.normalize():f}".replace("-", "−") for value in setting]
    return texts[0] if len(set(texts)) == 1 else " / ".join(texts)


def _best(best: dict[str, Any] | None, labels: Sequence[str], url: str) -> dict[str, Any] | None:
    if best is None:
        return None
    kept, loss = round(100 * best["weakest"]), max(0.0, 100 * best["control_loss"])
    words = {"kept": kept, "loss": f"{loss:.1f}"}
    if best["within"]:
        text = _(
            "Its weakest ability keeps %(kept)d %% of its own gain; no control loses more than "
            "%(loss)s points."
        )
    else:
        text = _(
            "Every setting costs a control more than three points; this one costs least, %(loss)s "
            "points. Its weakest ability keeps %(kept)d %% of its own gain."
        )
    return {"label": labels[best["index"]], "text": text % words, "url": url, **best}


# --- pictures --------------------------------------------------------------------------------


def _drawn(
    number: int, curve: dict[str, Any], order: Sequence[int], xs: Sequence[float], best: int | None
) -> dict[str, Any]:
    """One ability's curve in places of the picture."""
    measured = [
        (x, curve["points"][i], i) for x, i in zip(xs, order, strict=True) if curve["points"][i]
    ]
    points = [
        {
            "x": _x(x, xs),
            "y": _y(score["share"]),
            "low": _y(score["low"]),
            "high": _y(score["high"]),
            "best": i == best,
            "label": f"{x:g}".replace("-", "−"),
        }
        for x, score, i in measured
    ]
    shares = [score["share"] for _x0, score, _i in measured]
    lines = []
    for key, text in (("target", _("without")), ("alone", _("its vector alone"))):
        if curve[key]:
            lines.append({"kind": key, "y": _y(curve[key]["share"]), "text": text,
                          "share": f"{curve[key]['share']:.3f}"})  # fmt: skip
    said = {"n": curve["n"], "first": f"{xs[0]:g}", "last": f"{xs[-1]:g}"}
    return {
        "id": f"curve-{number}",
        "name": curve["name"],
        "of": curve["of"],
        "role": curve["role"],
        "metric": curve["metric"],
        "n": curve["n"],
        "points": points,
        "path": " ".join(f"{point['x']},{point['y']}" for point in points),
        "lines": lines,
        "grid": [{"y": _y(share), "text": f"{share:g}"} for share in (0, 0.5, 1)],
        "chance": _y(curve["chance"]) if curve["chance"] else "",
        "said": _("%(n)d items, at coefficients from %(first)s to %(last)s:") % said
        + f" {', '.join(f'{share:.3f}' for share in shares)}.",
    }


def _x(value: float, xs: Sequence[float]) -> str:
    low, high = min(xs), max(xs)
    share = (value - low) / (high - low) if high > low else 0.5
    return f"{LEFT + 8 + share * (WIDTH - LEFT - RIGHT - 16):.1f}"


def _y(share: float) -> str:
    return f"{TOP + (1 - share) * (HEIGHT - TOP - BOTTOM):.1f}"
