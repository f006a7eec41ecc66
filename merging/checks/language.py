"""Probes of language models: a word in a gap (fill-mask), an answer (text-generation)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from vectors.probes import Probe
from vectors.tensorfile.errors import _

from .embedding import BATCH, Done, longest_of
from .loading import Loader, RunError, configuration_of, tokenizer_of


@torch.inference_mode()
def fill_mask(probe: Probe, folder: Path, loader: Loader, done: Done) -> list[str]:
    """For each item the likeliest word of the probe's labels; without labels, of the vocabulary."""
    tokenizer = tokenizer_of(folder)
    if tokenizer.mask_token is None:
        raise RunError(_("The model's tokenizer has no mask, so it cannot fill a gap."))
    model = loader.model(folder, "AutoModelForMaskedLM")
    words = list(probe.labels) or sorted({item.expected[0] for item in probe.items})
    ids = [_one_token(tokenizer, word) for word in words]
    found: list[str] = []
    for start in range(0, len(probe.items), BATCH):
        part = probe.items[start : start + BATCH]
        tokens = tokenizer(
            [item.input.replace("[MASK]", tokenizer.mask_token) for item in part],
            padding=True,
            truncation=True,
            max_length=longest_of(folder, tokenizer),
            return_tensors="pt",
        )
        gaps = tokens["input_ids"] == tokenizer.mask_token_id
        if not bool((gaps.sum(1) == 1).all()):
            raise RunError(_("An item is longer than the model reads: its gap was cut off."))
        logits = model(**tokens).logits[gaps]
        if probe.labels:
            found += [words[i] for i in logits[:, ids].argmax(-1).tolist()]
        else:
            spelled = dict(zip(ids, words, strict=True))
            found += [spelled.get(i, "") for i in logits.argmax(-1).tolist()]
        done(len(part))
    return found


def _one_token(tokenizer: Any, word: str) -> int:
    # Byte-level vocabularies write the space before a word into its token.
    for text in (f" {word}", word):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(ids) == 1 and ids[0] != tokenizer.unk_token_id:
            return int(ids[0])
    raise RunError(
        _("`%(word)s` is no single token of this model, so a gap cannot be filled with it."),
        word=word,
    )


@torch.inference_mode()
def generate(probe: Probe, folder: Path, loader: Loader, done: Done) -> list[str]:
    """What the model answers to each item: the likeliest token each time, nothing drawn.

    A model with a chat template is asked as its user; the others go on with the text.
    """
    tokenizer = tokenizer_of(folder)
    encoder_decoder = bool(configuration_of(folder).get("is_encoder_decoder"))
    name = "AutoModelForSeq2SeqLM" if encoder_decoder else "AutoModelForCausalLM"
    model = loader.model(folder, name)
    found: list[str] = []
    # One at a time: padding would change the numbers of the shorter ones.
    for item in probe.items:
        tokens = _prompt(tokenizer, item.input)
        answer = model.generate(
            **tokens,
            do_sample=False,
            num_beams=1,
            max_new_tokens=probe.max_new_tokens,
            pad_token_id=_pad(tokenizer, model),
        )[0]
        fresh = answer if encoder_decoder else answer[tokens["input_ids"].shape[1] :]
        found.append(tokenizer.decode(fresh, skip_special_tokens=True))
        done(1)
    return found


def _prompt(tokenizer: Any, text: str) -> dict[str, torch.Tensor]:
    if getattr(tokenizer, "chat_template", None):
        messages = [{"role": "user", "content": text}]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        tokens = tokenizer(text, add_special_tokens=False, return_tensors="pt")
    else:
        tokens = tokenizer(text, return_tensors="pt")
    return {key: tokens[key] for key in ("input_ids", "attention_mask")}


def _pad(tokenizer: Any, model: Any) -> int:
    ends = model.generation_config.eos_token_id
    end = ends[0] if isinstance(ends, list) else ends
    known = [each for each in (tokenizer.pad_token_id, end) if each is not None]
    return int(known[0]) if known else 0
