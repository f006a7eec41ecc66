"""One probe asked of one model: the answers, and what each of them scores."""

from __future__ import annotations

from pathlib import Path

import torch

from vectors import probes
from vectors.probes import Item, Probe, words_of
from vectors.tensorfile.errors import Problem

from .classifying import classify
from .embedding import Done, Encoder, retrieval, zero_shot
from .language import fill_mask, generate
from .loading import Loader, cannot_run
from .speech import transcribe, words_right


class Asker:
    """Asks probes of model folders; keeps the model and the embedded descriptions it has."""

    def __init__(self) -> None:
        self._loader = Loader()
        self._heads: dict[tuple[Path, tuple[str, ...]], torch.Tensor] = {}

    def ask(self, probe: Probe, model: Path, foundation: Path | None, done: Done) -> list[str]:
        """The model's answer to each item.

        Descriptions of labels are embedded by ``foundation`` (by the model itself where None), so
        that every vector of a family answers to one head. Raises Problem.
        """
        try:
            if probe.kind == probes.ZERO_SHOT:
                heads = self._described(probe, foundation or model)
                return zero_shot(probe, model, heads, self._loader, done)
            if probe.kind == probes.RETRIEVAL:
                return retrieval(probe, model, self._loader, done)
            if probe.kind == probes.FILL_MASK:
                return fill_mask(probe, model, self._loader, done)
            if probe.kind == probes.GENERATION:
                return generate(probe, model, self._loader, done)
            if probe.kind == probes.SPEECH:
                return transcribe(probe, model, self._loader, done)
            return classify(probe, model, self._loader, done)
        except (Problem, BrokenPipeError):
            raise
        except Exception as error:
            # Whatever a library raises over somebody's model ends this probe, not the others.
            raise cannot_run(error, model) from error

    def describe(self, probe: Probe, foundation: Path) -> None:
        """Embed the probe's descriptions now, while ``foundation`` is there."""
        if probe.kind == probes.ZERO_SHOT:
            self._described(probe, foundation)

    def _described(self, probe: Probe, foundation: Path) -> torch.Tensor:
        texts = tuple(str(text) for text in probe.labels.values())
        key = (foundation, texts)
        if key not in self._heads:
            self._heads[key] = Encoder(foundation, self._loader).embed(list(texts))
        return self._heads[key]


def score(probe: Probe, item: Item, answer: str) -> int:
    """What ``answer`` earns: 1 or 0, or the number of words right."""
    if probe.kind == probes.SPEECH:
        return words_right(words_of(answer), words_of(item.expected[0]))
    if probe.metric == "contains":
        return int(any(text.casefold() in answer.casefold() for text in item.expected))
    if probe.metric == "exact":
        return int(answer.split() in [text.split() for text in item.expected])
    return int(answer == item.expected[0])
