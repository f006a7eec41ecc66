"""The inspection of an upload: every tensor against the foundation, and a verdict.

Knows nothing of requests or jobs: it takes opened files and a foundation, tells ``on_progress``
how far it is, and returns Findings or raises a Problem whose sentence names the tensor.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from vectors.errors import Refusal, _
from vectors.models import Foundation, Version
from vectors.tensorfile.checkpoint import Checkpoint, Tensor, read_json
from vectors.tensorfile.dtypes import DTYPES
from vectors.tensorfile.fingerprint import combine_digests
from vectors.tensorfile.forms import DELTA, FULL, LORA, STEMS, detect_form
from vectors.tensorfile.lora import Adapter, read_adapter
from vectors.tensorfile.measure import Measure, first_broken, measure, measure_low_rank
from vectors.tensorfile.names import (
    VOCABULARY,
    has_layer_index,
    layer_of,
    match_names,
    shape_text,
)
from vectors.tensorfile.sketch import Sketcher
from vectors.tensorfile.sketch_format import Sketch
from vectors.tensorfile.source import ByteSource

# ‖τ‖/‖θ‖ of fine-tunes lies between a thousandth and a few tenths; two independent trainings of
# one architecture are about √2 apart.
IMPLAUSIBLE_RATIO = 0.6
UNUSUAL_FACTOR = 20.0
USUAL_NEEDS = 3

Progress = Callable[[int, int], None]


@dataclass
class Findings:
    """What the inspection found; everything a version's row needs."""

    form: str
    digest: str
    layers: list[dict[str, Any]]
    verdict: dict[str, Any]
    sketch: Sketch


@dataclass
class _Tally:
    total: int
    on_progress: Progress
    sketcher: Sketcher
    done: int = 0
    rows: list[tuple[str, str, tuple[int, ...], str]] = field(default_factory=list)
    measures: dict[str, Measure] = field(default_factory=dict)

    def add_bytes(self, count: int) -> None:
        self.done += count
        self.on_progress(self.done, self.total)

    def measure(self, tensor: Tensor, base: Tensor | None, *, is_delta: bool = False) -> Measure:
        """Measure ``tensor`` and sample it for the sketch, in one pass."""
        if base is None:
            return measure(tensor, is_delta=is_delta, on_bytes=self.add_bytes)
        sampler = self.sketcher.begin(base.name, base.count)
        found = measure(
            tensor, base, is_delta=is_delta, on_bytes=self.add_bytes, on_delta=sampler.block
        )
        self.sketcher.end(sampler)
        return found


def open_content(files: Mapping[str, ByteSource]) -> tuple[str, Checkpoint | Adapter, Checkpoint]:
    """Form, content, and the checkpoint that holds its bytes. Raises TensorFileError."""
    form = detect_form(files)
    checkpoint = Checkpoint.open(files, STEMS[form])
    if form == LORA:
        config = read_json(files["adapter_config.json"])
        return form, read_adapter(config, checkpoint), checkpoint
    return form, checkpoint, checkpoint


def inspect(
    files: Mapping[str, ByteSource],
    foundation: Foundation,
    base: Checkpoint,
    on_progress: Progress,
) -> Findings:
    """Inspect the upload ``files`` against ``foundation``, whose opened weights are ``base``.

    Raises Refusal or TensorFileError when the upload is no vector of this foundation.
    """
    form, content, checkpoint = open_content(files)
    tally = _Tally(checkpoint.nbytes, on_progress, Sketcher(foundation.fingerprint))
    notes: list[dict[str, Any]] = []
    shapes = content_shapes(content)
    mapping, prefix = match_names(shapes, base.tensors)
    check_fit(form, shapes, mapping, base, foundation, notes)
    if prefix:
        notes.append(
            _note(
                _(
                    "Its tensor names differ from the foundation's by the prefix "
                    "`%(prefix)s`; they are matched."
                ),
                prefix=prefix[1:],
            )
        )
    if isinstance(content, Adapter):
        _measure_adapter(content, mapping, base, tally)
    else:
        _measure_checkpoint(content, form, mapping, base, tally)
    if not any(found.changed for found in tally.measures.values()):
        raise Refusal(
            _(
                "No change: every value equals %(foundation)s, so there is no ability in it. "
                "Upload the checkpoint you trained."
            ),
            foundation=foundation.repo_id,
        )
    layers = per_layer(tally.measures, foundation)
    verdict = _verdict(form, tally, foundation, notes, shapes, mapping)
    return Findings(form, _digest(form, tally), layers, verdict, tally.sketcher.finish())


def content_shapes(content: Checkpoint | Adapter) -> dict[str, tuple[int, ...]]:
    """Shape by name of every tensor of the foundation that the upload speaks of."""
    if isinstance(content, Adapter):
        shapes = {name: pair.shape for name, pair in content.low_rank.items()}
        return shapes | {name: tensor.shape for name, tensor in content.replaced.items()}
    return {name: tensor.shape for name, tensor in content.tensors.items()}


def check_fit(
    form: str,
    shapes: Mapping[str, tuple[int, ...]],
    mapping: Mapping[str, str],
    base: Checkpoint,
    foundation: Foundation,
    notes: list[dict[str, Any]],
) -> None:
    """Names and shapes against the foundation; Refusal names the first tensor that does not fit."""
    for name, goal in sorted(mapping.items(), key=lambda pair: layer_of(pair[1])):
        ours, theirs = shapes[name], base.tensors[goal].shape
        if ours == theirs:
            continue
        if VOCABULARY.search(goal) and ours[1:] == theirs[1:] and form != LORA and ours:
            notes.append(
                _note(
                    _(
                        "`%(tensor)s` has %(ours)d rows, the foundation %(theirs)d: the "
                        "shared rows count."
                    ),
                    tensor=name,
                    ours=ours[0],
                    theirs=theirs[0],
                )
            )
            continue
        _refuse_shape(name, ours, theirs, shapes, foundation)
    strangers = [name for name in shapes if name not in mapping]
    inside = [name for name in strangers if has_layer_index(name)]
    if inside or len(strangers) > len(mapping):
        raise _with_suggestion(
            Refusal(
                _(
                    "`%(tensor)s` does not exist in %(foundation)s, so this was trained from "
                    "another model."
                ),
                tensor=(inside or strangers)[0],
                foundation=foundation.repo_id,
            ),
            shapes,
            foundation,
        )
    if strangers:
        notes.append(
            _note(
                _("Tensors the foundation does not have, left out of the vector: %(names)s."),
                names=_some(strangers),
            )
        )
    if form == FULL:
        present = set(mapping.values())
        missing = [name for name in base.tensors if name not in present]
        for name in missing:
            inner = has_layer_index(name) or len(missing) > len(present)
            if inner and DTYPES[base.tensors[name].dtype].mergeable:
                raise Refusal(
                    _(
                        "`%(tensor)s` is missing: %(foundation)s has it, and a full fine-tune must "
                        "have it too."
                    ),
                    tensor=name,
                    foundation=foundation.repo_id,
                )
        if missing:
            notes.append(
                _note(
                    _("Tensors of the foundation that are not in it, left as they are: %(names)s."),
                    names=_some(missing),
                )
            )


def _refuse_shape(
    name: str,
    ours: tuple[int, ...],
    theirs: tuple[int, ...],
    shapes: Mapping[str, tuple[int, ...]],
    foundation: Foundation,
) -> None:
    raise _with_suggestion(
        Refusal(
            _(
                "`%(tensor)s` is %(ours)s here and %(theirs)s in %(foundation)s: this was trained "
                "from another model."
            ),
            tensor=name,
            ours=shape_text(ours),
            theirs=shape_text(theirs),
            foundation=foundation.repo_id,
        ),
        shapes,
        foundation,
    )


def _with_suggestion(
    refusal: Refusal, shapes: Mapping[str, tuple[int, ...]], foundation: Foundation
) -> Refusal:
    """Add the foundation the upload does fit, when there is one in the catalogue."""
    for other in Foundation.objects.exclude(pk=foundation.pk).order_by("pk"):
        mapping, _prefix = match_names(shapes, other.manifest)
        if len(mapping) == len(shapes) and all(
            tuple(other.manifest[goal][1]) == shapes[name] for name, goal in mapping.items()
        ):
            return Refusal(
                refusal.template + "\n" + _("It fits %(other)s: choose that foundation."),
                **refusal.params,
                other=other.repo_id,
            )
    return refusal


def _measure_checkpoint(
    content: Checkpoint, form: str, mapping: Mapping[str, str], base: Checkpoint, tally: _Tally
) -> None:
    for name, tensor in content.tensors.items():
        goal = mapping.get(name)
        reference = base.tensors[goal] if goal else None
        found = tally.measure(tensor, reference, is_delta=form == DELTA)
        _refuse_broken(tensor, found)
        tally.rows.append((name, tensor.dtype, tensor.shape, found.digest))
        if goal and reference is not None:
            if not DTYPES[tensor.dtype].mergeable:
                found = Measure(count=tensor.count)
            tally.measures[goal] = found


def _measure_adapter(
    content: Adapter, mapping: Mapping[str, str], base: Checkpoint, tally: _Tally
) -> None:
    for name, pair in content.low_rank.items():
        for part, tensor in (("left", pair.left), ("right", pair.right)):
            found = measure(tensor, is_delta=True, on_bytes=tally.add_bytes)
            _refuse_broken(tensor, found)
            tally.rows.append((f"{name} {part}", tensor.dtype, tensor.shape, found.digest))
        tally.rows.append((f"{name} scale {pair.scale!r} {pair.transposed}", "", pair.shape, ""))
        if name in mapping:
            goal = mapping[name]
            sampler = tally.sketcher.begin(goal, base.tensors[goal].count)
            found = measure_low_rank(pair, on_factors=sampler.factors)
            _refuse_broken(pair.left, found)
            tally.measures[goal] = found
            tally.sketcher.end(sampler)
    for name, tensor in content.replaced.items():
        whole = mapping.get(name)
        found = tally.measure(tensor, base.tensors[whole] if whole else None)
        _refuse_broken(tensor, found)
        tally.rows.append((name, tensor.dtype, tensor.shape, found.digest))
        if whole:
            tally.measures[whole] = found


def _refuse_broken(tensor: Tensor, found: Measure) -> None:
    if found.broken:
        raise Refusal(
            _(
                "`%(tensor)s` has values that are not finite (%(count)d of them, the first is "
                "%(what)s). Training went wrong there: upload a checkpoint from before it."
            ),
            tensor=tensor.name,
            count=found.broken,
            what=first_broken(tensor),
        )


def per_layer(measures: Mapping[str, Measure], foundation: Foundation) -> list[dict[str, Any]]:
    """Strength per layer of the foundation: norm ‖τ‖, ratio ‖τ‖/‖θ‖, share of ‖τ‖².

    Layers the vector does not touch are there with zeros, so that strips line up.
    """
    groups: dict[tuple[int, str], list[float]] = {}
    for name, (_dtype, _shape, base_square) in foundation.manifest.items():
        delta, base = groups.setdefault(layer_of(name), [0.0, 0.0])
        found = measures.get(name)
        groups[layer_of(name)] = [
            delta + (found.delta_square if found else 0.0),
            base + base_square,
        ]
    total = sum(delta for delta, _base in groups.values()) or 1.0
    return [
        {
            "label": label,
            "norm": round(math.sqrt(delta), 6),
            "ratio": round(math.sqrt(delta / base), 6) if base else 0.0,
            "share": round(delta / total, 6),
        }
        for (_order, label), (delta, base) in sorted(groups.items())
    ]


def _verdict(
    form: str,
    tally: _Tally,
    foundation: Foundation,
    notes: list[dict[str, Any]],
    shapes: Mapping[str, tuple[int, ...]],
    mapping: Mapping[str, str],
) -> dict[str, Any]:
    delta = sum(found.delta_square for found in tally.measures.values())
    base = sum(row[2] for row in foundation.manifest.values())
    ratio = math.sqrt(delta / base) if base else 0.0
    elements = sum(found.count for found in tally.measures.values())
    changed = sum(found.changed for found in tally.measures.values())
    usual = usual_ratio(foundation)
    warnings = []
    if ratio > IMPLAUSIBLE_RATIO and (usual is None or ratio > 3 * usual):
        warnings.append(
            _note(
                _(
                    "The delta is implausibly large: it changes the weights by %(ratio).0f%% of "
                    "their size, where fine-tunes of %(foundation)s usually change %(usual)s. It "
                    "was probably trained from other parameters of the same architecture."
                ),
                ratio=ratio * 100,
                foundation=foundation.repo_id,
                usual=f"{usual * 100:.1f}%" if usual is not None else "0.1–20%",
            )
        )
    elif usual is not None and ratio > UNUSUAL_FACTOR * usual:
        warnings.append(
            _note(
                _(
                    "The delta is unusually large: %(ratio).1f%% of the weights' size, where "
                    "%(usual).2f%% is usual for this foundation. Check the base model."
                ),
                ratio=ratio * 100,
                usual=usual * 100,
            )
        )
    return {
        "form": form,
        "tensors": len(shapes),
        "matched": len(mapping),
        "touched": sum(1 for found in tally.measures.values() if found.changed),
        "of": len(foundation.manifest),
        "norm": math.sqrt(delta),
        "ratio": ratio,
        "usual": usual,
        "elements": elements,
        "unchanged_share": 1 - changed / elements if elements and form == FULL else None,
        "warnings": warnings,
        "notes": notes,
    }


def usual_ratio(foundation: Foundation) -> float | None:
    """Median ‖τ‖/‖θ‖ of the foundation's published versions; None while there are too few."""
    ratios = sorted(
        verdict["ratio"]
        for verdict in Version.objects.published()
        .filter(foundation=foundation)
        .values_list("verdict", flat=True)[:1000]
        if "ratio" in verdict
    )
    return ratios[len(ratios) // 2] if len(ratios) >= USUAL_NEEDS else None


def _digest(form: str, tally: _Tally) -> str:
    """The version's content: its form, its tensors, and for LoRA the scale of each."""
    head = json.dumps({"armory_version": 1, "form": form}, sort_keys=True)
    return hashlib.sha256(f"{head}\n{combine_digests(tally.rows)}".encode()).hexdigest()


def _note(template: str, **params: Any) -> dict[str, Any]:
    return {"template": template, "params": params}


def _some(names: list[str], limit: int = 5) -> str:
    more = len(names) - limit
    return ", ".join(names[:limit]) + (f" +{more}" if more > 0 else "")
