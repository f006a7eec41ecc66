"""What a recipe can come out as: the model, its difference from the target, or one LoRA.

One door for the command and the site. Everything made here is written by ``run.write_model`` and
streamed by ``run.stream``, as a model is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from .adapter_out import CONFIG_FILE, WEIGHTS_FILE, Lora
from .cut import Budget
from .difference import STEM, change_of, is_exact, lay_out_change
from .errors import RecipeError, _
from .extract import extracted_lora
from .joined import is_sum_of_loras, joined_lora
from .layout import VirtualModel
from .run import Equipment, write_model

MODEL, DELTA, LORA = "model", "delta", "lora"
KINDS = (MODEL, DELTA, LORA)
ERRORS_FILE = "errors.json"  # beside a LoRA that was cut: rank and error of every tensor


@dataclass(frozen=True)
class Output:
    """Weight files that are computed as they are read, small files beside them, and what to say.

    ``sentences`` state size, rank and error, and name what is not in it.
    """

    model: VirtualModel
    files: Mapping[str, bytes]
    sentences: tuple[str, ...]


def make_output(
    equipment: Equipment,
    kind: str,
    *,
    rank: int | None = None,
    energy: float | None = None,
    dtype: str = "F32",
    keep_whole: bool = False,
    base: str = "",
    on_tensor: Callable[[str], object] | None = None,
) -> Output:
    """``equipment`` as a "model", a "delta" or a "lora".

    A delta is written in ``dtype``. A LoRA is the exact sum where all terms are LoRAs and neither
    ``rank`` nor ``energy`` is given; otherwise it is cut down to them, all at once, and
    ``on_tensor`` is called after each tensor. ``base`` is the model the LoRA says it belongs to;
    for ``keep_whole`` see `extracted_lora`. Raises RecipeError, MergeError.
    """
    if kind not in KINDS:
        raise RecipeError(
            _("A recipe comes out as %(known)s, not as %(kind)s."),
            known=", ".join(KINDS),
            kind=kind,
        )
    asked = rank is not None or energy is not None
    if asked and kind != LORA:
        raise RecipeError(_("A rank or an energy belongs to a LoRA: ask for one with `lora`."))
    if kind == MODEL:
        return Output(equipment.model, {}, ())
    if kind == DELTA:
        return _delta(equipment, dtype)
    budget = Budget(rank, energy) if asked else None
    if is_sum_of_loras(equipment):
        try:
            return _lora(joined_lora(equipment, budget, base=base), budget)
        except RecipeError:
            if budget is None:
                raise  # what is no sum of LoRAs after all can still be cut down to one
    if budget is None:
        raise RecipeError(
            _(
                "Only a sum of LoRAs is one LoRA exactly. Say a rank (such as 16) or an energy "
                "(such as 0.99) to cut this recipe's change down to one."
            )
        )
    lora = extracted_lora(
        change_of(equipment), budget, keep_whole=keep_whole, base=base, on_tensor=on_tensor
    )
    return _lora(lora, budget)


def write_output(
    equipment: Equipment,
    output: Output,
    folder: Path,
    extra_files: Mapping[str, bytes | Path] | None = None,
    *,
    on_bytes: Callable[[int], object] | None = None,
    threads: int = 2,
    before_rename: Callable[[], object] | None = None,
) -> None:
    """Write ``output`` to ``folder``, which appears only when it is complete, as a model does."""
    write_model(
        replace(equipment, model=output.model),
        folder,
        {**output.files, **(extra_files or {})},
        on_bytes=on_bytes,
        threads=threads,
        before_rename=before_rename,
    )


def _delta(equipment: Equipment, dtype: str) -> Output:
    change = change_of(equipment)
    model = lay_out_change(change, dtype)
    files = {}
    if model.index is not None:
        files[f"{STEM}.safetensors.index.json"] = model.index
    sentences = [
        _("A difference of %(count)d tensors in %(dtype)s, %(size)s.")
        % {"count": len(change.tensors), "dtype": dtype, "size": size_text(model.size)},
        _("Put on the same target with coefficient 1 it gives this recipe's model, bit for bit.")
        if is_exact(change, dtype)
        else _(
            "Put on the same target with coefficient 1 it gives this recipe's model, up to "
            "rounding."
        ),
        *_names_of(change.left_out, _("Not in it, because no addition can say it: %(names)s.")),
    ]
    return Output(VirtualModel(model.files, None), files, tuple(sentences))


def _lora(lora: Lora, budget: Budget | None) -> Output:
    files = {CONFIG_FILE: lora.config}
    facts = {
        "rank": lora.rank,
        "size": size_text(lora.weights.size),
        "count": len(lora.parts),
        "error": percent(lora.error),
        "energy": percent(lora.energy),
    }
    if budget is None:
        sentences = [
            _("One LoRA of rank %(rank)d, %(size)s, %(count)d layers: the sum exactly.") % facts
        ]
    else:
        files[ERRORS_FILE] = errors_of(lora)
        sentences = [
            _("One LoRA of rank %(rank)d, %(size)s, %(count)d layers.") % facts,
            _("Relative error %(error)s: %(energy)s of the change's squared norm is kept.") % facts,
        ]
        worst = max(lora.parts, key=lambda part: part.error, default=None)
        if worst is not None and worst.error > 0:
            sentences.append(
                _("Worst: `%(tensor)s`, relative error %(error)s.")
                % {"tensor": worst.tensor, "error": percent(worst.error)}
            )
        narrow = [p.tensor for p in lora.parts if budget.rank is not None and p.full < budget.rank]
        sentences += _names_of(
            narrow, _("These have fewer than the rank asked for, and are kept entire: %(names)s.")
        )
    sentences += _names_of(lora.kept, _("Carried as whole tensors: %(names)s."))
    sentences += _names_of(
        sorted(lora.left_out, key=lambda name: -lora.left_out[name]),
        _("Left out, because a LoRA only adds to layers: %(names)s."),
    )
    return Output(VirtualModel({WEIGHTS_FILE: lora.weights}, None), files, tuple(sentences))


def errors_of(lora: Lora) -> bytes:
    """errors.json: for every tensor its rank and relative error, and the same for all of it."""
    document = {
        "relative_error": lora.error,
        "energy_kept": lora.energy,
        "tensors": {
            part.tensor: {"rank": part.rank, "norm": part.square**0.5, "relative_error": part.error}
            for part in lora.parts
        },
        "left_out": {name: {"norm": square**0.5} for name, square in lora.left_out.items()},
    }
    return (json.dumps(document, indent=2) + "\n").encode()


def percent(share: float) -> str:
    """``3.42 %``, with the digits that matter."""
    return f"{100 * share:.4g} %"


def size_text(nbytes: int) -> str:
    """``12.3 MB``."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if nbytes >= size:
            return f"{nbytes / size:.1f} {unit}"
    return f"{nbytes} B"


def _names_of(names: Iterable[str], sentence: str) -> list[str]:
    found = list(names)
    if not found:
        return []
    more = f" (+{len(found) - 4})" if len(found) > 4 else ""
    return [sentence % {"names": ", ".join(f"`{name}`" for name in found[:4]) + more}]
