"""Probes of sentence encoders: the nearest description (zero-shot), the nearest answer (retrieval).

A sentence's embedding is what sentence-transformers makes of it, by the settings in the folder:
pooling over the tokens' states, then unit length. Its folders name Python classes to import; here
they are only compared with the three kinds of layers known.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from vectors.probes import Probe
from vectors.tensorfile.errors import _

from .loading import LONGEST, Loader, RunError, configuration_of, read_settings, tokenizer_of

BATCH = 32
_MODES = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_lasttoken": "lasttoken",
}
Done = Callable[[int], object]


class Encoder:
    """The sentence encoder in ``folder``."""

    def __init__(self, folder: Path, loader: Loader) -> None:
        self.tokenizer = tokenizer_of(folder)
        self.model = loader.model(folder, "AutoModel", needs_head=False)
        self.pooling = pooling_of(folder)
        self.tokens = longest_of(folder, self.tokenizer)

    @torch.inference_mode()
    def embed(self, texts: list[str], done: Done = lambda _count: None) -> torch.Tensor:
        """Unit-length embeddings, (texts, width). Texts go in order of length: little padding."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        found: dict[int, torch.Tensor] = {}
        for start in range(0, len(order), BATCH):
            part = order[start : start + BATCH]
            tokens = self.tokenizer(
                [texts[i] for i in part],
                padding=True,
                truncation=True,
                max_length=self.tokens,
                return_tensors="pt",
            )
            hidden = self.model(**tokens).last_hidden_state.float()
            pooled = _pooled(hidden, tokens["attention_mask"], self.pooling)
            found.update(zip(part, torch.nn.functional.normalize(pooled, dim=-1), strict=True))
            done(len(part))
        return torch.stack([found[i] for i in range(len(texts))])


def _pooled(hidden: torch.Tensor, attention: torch.Tensor, mode: str) -> torch.Tensor:
    mask = attention[:, :, None].to(hidden.dtype)
    if mode == "cls":
        return hidden[:, 0]
    if mode == "max":
        return hidden.masked_fill(mask == 0, float("-inf")).max(1).values
    if mode == "lasttoken":
        places = torch.arange(attention.shape[1]) * attention
        return hidden[torch.arange(len(hidden)), places.argmax(1)]
    return (hidden * mask).sum(1) / mask.sum(1).clamp(min=1)


def pooling_of(folder: Path) -> str:
    """How the folder pools: mean where it does not say. Raises RunError for other layers."""
    path = "1_Pooling"
    if (folder / "modules.json").is_file():
        for module in _modules(folder):
            name = str(module.get("type", "")).rsplit(".", 1)[-1]
            if name == "Pooling":
                path = str(module.get("path", path))
            elif name not in ("Transformer", "Normalize"):
                raise RunError(
                    _("The encoder has a layer `%(layer)s`, which is not run here."),
                    layer=name[:80],
                )
    if "/" in path or path.startswith("."):
        raise RunError(_("%(file)s of the model is not a JSON object."), file="modules.json")
    settings = read_settings(folder / path / "config.json")
    chosen = [mode for key, mode in _MODES.items() if settings.get(key) is True]
    if isinstance(settings.get("pooling_mode"), str):
        chosen = [settings["pooling_mode"]]
    if settings and (len(chosen) != 1 or chosen[0] not in _MODES.values()):
        raise RunError(_("The encoder's pooling is not one of mean, cls, max, lasttoken."))
    return chosen[0] if chosen else "mean"


def _modules(folder: Path) -> list[dict[str, Any]]:
    try:
        found = json.loads((folder / "modules.json").read_text("utf-8"))
        return [dict(module) for module in found]
    except (OSError, ValueError, TypeError) as error:
        raise RunError(
            _("%(file)s of the model is not a JSON object."), file="modules.json"
        ) from error


def longest_of(folder: Path, tokenizer: Any) -> int:
    """Tokens that the model reads of a text."""
    said = [
        read_settings(folder / "sentence_bert_config.json").get("max_seq_length"),
        configuration_of(folder).get("max_position_embeddings"),
        tokenizer.model_max_length,
    ]
    usable = [int(n) for n in said if isinstance(n, int | float) and 0 < n < 10**6]
    return min([*usable, LONGEST])


def zero_shot(
    probe: Probe, folder: Path, heads: torch.Tensor, loader: Loader, done: Done
) -> list[str]:
    """For each item the label whose description lies nearest; ``heads`` are the descriptions."""
    encoder = Encoder(folder, loader)
    found = encoder.embed([item.input for item in probe.items], done)
    labels = list(probe.labels)
    return [labels[i] for i in (found @ heads.T).argmax(-1).tolist()]


def retrieval(probe: Probe, folder: Path, loader: Loader, done: Done) -> list[str]:
    """For each item the nearest of all expected answers of the probe."""
    encoder = Encoder(folder, loader)
    pool = list(dict.fromkeys(item.expected[0] for item in probe.items))
    answers = encoder.embed(pool)
    found = encoder.embed([item.input for item in probe.items], done)
    return [pool[i] for i in (found @ answers.T).argmax(-1).tolist()]
