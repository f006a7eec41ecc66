"""Layers of several models stacked: every slice is aligned and merged on views of its layers.

A view is a checkpoint whose tensors are those of another one, under the layer numbers they have in
the result; nothing is read or copied. So a slice is an ordinary merge, and the result is laid out
anew.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from vectors.tensorfile.checkpoint import Checkpoint, Shard
from vectors.tensorfile.header import Header
from vectors.tensorfile.lora import Adapter
from vectors.tensorfile.names import shape_text

from .align import PlannedTensor, Report, TermSource, align
from .compute import Combination, Results, collapsed
from .errors import MergeError, _
from .layout import lay_out_anew
from .methods import Arguments, get_method
from .recipe import Recipe, Slice
from .run import Equipment
from .settings import stack_of
from .slices import rules_for
from .workspace import Workspace

# What stands before the layers; the rest of what is in no layer (norm, head) stands after them.
_BEFORE = re.compile(r"embed|wte|wpe|^shared\.|position")
_AFTER = re.compile(r"lm_head|embed_out|predictions|classifier")


@dataclass
class Stacked(Combination):
    """The merges of all slices as one: a tensor is computed by the merge of its slice."""

    parts: dict[str, Combination] = field(default_factory=dict)

    @property
    def by_tensor(self) -> bool:
        """Whether a tensor is best computed by one thread, start to end."""
        return any(part.by_tensor for part in self.parts.values())

    def merge(self, tensor: PlannedTensor, lo: int, hi: int, work: Workspace) -> np.ndarray:
        """As `Combination.merge`."""
        return self.parts[tensor.name].merge(tensor, lo, hi, work)

    def change(self, tensor: PlannedTensor, lo: int, hi: int, work: Workspace) -> np.ndarray:
        """As `Combination.change`."""
        return self.parts[tensor.name].change(tensor, lo, hi, work)

    def arguments(self, tensor: PlannedTensor, work: Workspace) -> Arguments:
        """As `Combination.arguments`."""
        return self.parts[tensor.name].arguments(tensor, work)


def layer_stacks(names: Sequence[str]) -> dict[str, int]:
    """Number of layers of every stack (what the names of its tensors begin with)."""
    layers: dict[str, set[int]] = {}
    for name in names:
        place = stack_of(name)
        if place is not None:
            layers.setdefault(place[0], set()).add(place[1])
    # Numbers with holes are no layers: classifier.0 and classifier.3 of a small network.
    return {
        prefix: len(found) for prefix, found in layers.items() if found == set(range(len(found)))
    }


def the_stack(checkpoint: Checkpoint, label: str, expected: int | None = None) -> tuple[str, int]:
    """Prefix and number of the layers of a model that has one stack of them.

    ``expected`` is the number its configuration gives. Raises MergeError naming all stacks.
    """
    stacks = layer_stacks(list(checkpoint.tensors))
    chosen = {prefix: count for prefix, count in stacks.items() if count == expected} or stacks
    if len(chosen) == 1:
        return next(iter(chosen.items()))
    if not chosen:
        raise MergeError(
            _("%(label)s has no layers that could be sliced: no tensor's name has a number."),
            label=label,
        )
    raise MergeError(
        _("%(label)s has several stacks of layers (%(stacks)s): slices take models with one."),
        label=label,
        stacks=", ".join(f"{prefix}*: {count}" for prefix, count in sorted(chosen.items())),
    )


def equip_stack(
    recipe: Recipe,
    models: Mapping[str, TermSource],
    *,
    expected: Callable[[str], int | None] = lambda ref: None,
    device: str = "cpu",
    results: Results | None = None,
) -> Equipment:
    """Align and lay out a recipe of slices. Reads headers only. Raises MergeError, RecipeError.

    ``models`` are the sources of all its models by reference; ``expected`` gives the number of
    layers that the configuration of a model names.
    """
    prefixes: dict[str, str] = {}
    for number, part in enumerate(recipe.slices):
        base = models[part.recipe.foundation]
        for ref, (_first, last) in part.layers.items():
            source = models[ref]
            if isinstance(source.content, Adapter):
                continue
            prefix, count = the_stack(source.content, source.label, expected(ref))
            prefixes[ref] = prefix
            if last > count:
                raise MergeError(
                    _(
                        "`slices[%(number)d]` takes layers up to %(last)d of %(label)s, which has "
                        "%(count)d."
                    ),
                    number=number,
                    last=last,
                    label=source.label,
                    count=count,
                )
        for ref in part.layers:
            prefixes.setdefault(ref, prefixes[base.ref])
        if prefixes[base.ref] != prefixes[recipe.foundation]:
            raise MergeError(
                _("%(label)s calls its layers %(own)s*, %(first)s calls them %(other)s*."),
                label=base.label,
                own=prefixes[base.ref],
                first=models[recipe.foundation].label,
                other=prefixes[recipe.foundation],
            )
    _check_shapes(recipe, models, prefixes)
    return _equip(recipe, models, prefixes, device, results)


def _equip(
    recipe: Recipe,
    models: Mapping[str, TermSource],
    prefixes: Mapping[str, str],
    device: str,
    results: Results | None,
) -> Equipment:
    method = get_method(recipe.method)
    stacked = Stacked(method, recipe, device=device, results=results)
    planned: list[PlannedTensor] = []
    report = Report()
    shards: list[Shard] = []
    terms: list[TermSource] = []
    at = 0
    for number, part in enumerate(recipe.slices):
        place = number == 0, number == len(recipe.slices) - 1
        views = {
            ref: _view(models[ref], prefixes[ref], layers, at, place, number)
            for ref, layers in part.layers.items()
        }
        target = views[part.recipe.foundation].content
        assert isinstance(target, Checkpoint)
        shards += target.shards
        sources = [views[term.ref] for term in part.recipe.terms]
        terms += sources
        combination = Combination(
            method, part.recipe, [each.label for each in sources], device=device, results=results
        )
        rules = rules_for(recipe, list(target.tensors))
        found, told = align(
            target,
            target,
            sources,
            operates_on=method.operates_on,
            out_dtype=recipe.out_dtype,
            rules=rules,
            foundation_ref=part.recipe.foundation,
        )
        whole = {ref for ref, view in views.items() if view.form == "full"}
        count = _length(part)
        prefix = prefixes[part.recipe.foundation]
        for tensor in found:
            tensor = collapsed(method, part.recipe, tensor, whole)
            planned.append(replace(tensor, position=_position(tensor.name, prefix, at, count)))
            stacked.parts[tensor.name] = combination
        _join(report, told)
        at += count
    _check_rules(recipe, report)
    model = lay_out_anew(planned, stacked)
    return Equipment(
        recipe, model, report, recipe.target, Checkpoint(shards), terms, planned, stacked
    )


def _length(part: Slice) -> int:
    first, last = part.layers[part.recipe.foundation]
    return last - first


def layers_of(recipe: Recipe) -> list[tuple[str, int]]:
    """For each layer of the result, the model and layer that it is put on."""
    return [
        (part.recipe.foundation, layer)
        for part in recipe.slices
        for layer in range(*part.layers[part.recipe.foundation])
    ]


def _view(
    source: TermSource,
    prefix: str,
    layers: tuple[int, int],
    at: int,
    place: tuple[bool, bool],
    number: int,
) -> TermSource:
    """``source`` as its slice sees it: some layers, renumbered from ``at`` on.

    ``place`` says whether the slice is the first, the last.
    """

    def rename(name: str) -> str | None:
        found = stack_of(name)
        if found is None or found[0] != prefix:
            after = found is None and (_AFTER.search(name) or not _BEFORE.search(name))
            return name if place[bool(after)] else None
        if not layers[0] <= found[1] < layers[1]:
            return None
        rest = name[len(prefix) + len(str(found[1])) :]
        return f"{prefix}{at + found[1] - layers[0]}{rest}"

    if isinstance(source.content, Adapter):
        named = {name: rename(name) for name in source.names}
        adapter = Adapter(
            {n: pair for o, pair in source.content.low_rank.items() if (n := named[o])},
            {n: tensor for o, tensor in source.content.replaced.items() if (n := named[o])},
        )
        return replace(source, content=adapter)
    shards = []
    for shard in source.content.shards:
        entries = tuple(
            replace(entry, name=name)
            for entry in shard.header.tensors
            if (name := rename(entry.name)) is not None
        )
        if entries:
            header = Header(entries, shard.header.metadata, shard.header.data_start)
            shards.append(Shard(f"{number:05d}-{shard.path}", shard.source, header))
    return replace(source, content=Checkpoint(shards))


def _position(name: str, prefix: str, at: int, count: int) -> float:
    """The place of a tensor among the layers of its slice, from 0 to 1."""
    found = stack_of(name)
    if found is None or found[0] != prefix:
        return 0.0
    return (found[1] - at) / (count - 1) if count > 1 else 1.0


def _join(report: Report, other: Report) -> None:
    for case, names in other.cases.items():
        report.cases.setdefault(case, []).extend(names)
    for name, value in vars(other).items():
        own = getattr(report, name)
        if name == "cases" or not value:
            continue
        if isinstance(own, list):
            own.extend(value)
        elif isinstance(own, dict):
            for key, more in value.items():
                own[key] = [*own.get(key, []), *more] if isinstance(more, list) else more


def _check_rules(recipe: Recipe, report: Report) -> None:
    counts: dict[str, int] = {}
    for each in report.rules:
        counts[each["rule"]] = counts.get(each["rule"], 0) + each["tensors"]
    report.rules = [{"rule": text, "tensors": count} for text, count in counts.items()]
    for rule in recipe.rules:
        if rule.text not in counts:
            raise MergeError(
                _("The rule `%(rule)s` matches no tensor: check its pattern."), rule=rule.text
            )


def _check_shapes(
    recipe: Recipe, models: Mapping[str, TermSource], prefixes: Mapping[str, str]
) -> None:
    """Refuse stacks whose layers have other widths than the first slice's."""
    known: dict[str, dict[tuple[int, ...], None]] = {}
    first = models[recipe.foundation]
    for number, part in enumerate(recipe.slices):
        source = models[part.recipe.foundation]
        assert isinstance(source.content, Checkpoint)
        for name, tensor in source.content.tensors.items():
            place = stack_of(name)
            if place is None or place[0] != prefixes[source.ref]:
                continue
            role = name[len(place[0]) + len(str(place[1])) :]
            if number == 0:
                known.setdefault(role, {})[tensor.shape] = None
            elif role in known and tensor.shape not in known[role]:
                raise MergeError(
                    _(
                        "`%(tensor)s` is %(shape)s in %(label)s and %(other_shape)s in %(other)s: "
                        "their layers cannot be stacked."
                    ),
                    tensor=name,
                    shape=shape_text(tensor.shape),
                    label=source.label,
                    other_shape=shape_text(next(iter(known[role]))),
                    other=first.label,
                )


# The keys under which configurations keep the number of layers.
_COUNT_KEYS = (
    "num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers",
    "num_decoder_layers", "depth",
)  # fmt: skip


def configured_count(config: Mapping[str, Any]) -> int | None:
    """The number of layers that a ``config.json`` names."""
    for part in (config, config.get("text_config")):
        for key in _COUNT_KEYS:
            if isinstance(part, dict) and type(part.get(key)) is int:
                return int(part[key])
    return None


def stacked_config(
    config: Mapping[str, Any], count: int, recipe: Recipe, config_of: Callable[[str], Any]
) -> dict[str, Any]:
    """``config`` (of a model with ``count`` layers) for the stack: the new number of layers.

    Lists with an item for each layer (``layer_types``) are put together from the models' own.
    """
    places = layers_of(recipe)

    def rebuilt(part: Mapping[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
        found = dict(part)
        for key, value in part.items():
            if key in _COUNT_KEYS and value == count:
                found[key] = len(places)
            elif isinstance(value, list) and len(value) == count and count > 1:
                found[key] = [
                    _item(config_of(ref), (*path, key), layer, value) for ref, layer in places
                ]
            elif key == "text_config" and isinstance(value, dict):
                found[key] = rebuilt(value, (*path, key))
        return found

    return rebuilt(config, ())


def _item(config: Any, path: tuple[str, ...], layer: int, otherwise: Sequence[Any]) -> Any:
    for key in path:
        config = config.get(key) if isinstance(config, dict) else None
    items = config if isinstance(config, list) and layer < len(config) else otherwise
    return items[min(layer, len(items) - 1)]
