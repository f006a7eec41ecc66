"""Probes of speech recognisers: a sound, and the words in it."""

from __future__ import annotations

import base64
import io
import wave
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from vectors.probes import RATE, Probe

from .embedding import Done
from .loading import Loader, configuration_of, processor_of


@torch.inference_mode()
def transcribe(probe: Probe, folder: Path, loader: Loader, done: Done) -> list[str]:
    """What the model hears in each item."""
    architectures = configuration_of(folder).get("architectures") or [""]
    ctc = str(architectures[0]).endswith("CTC")
    processor = processor_of(folder, "AutoProcessor")
    model = loader.model(folder, "AutoModelForCTC" if ctc else "AutoModelForSpeechSeq2Seq")
    found: list[str] = []
    for item in probe.items:
        inputs = processor(_samples(item.input), sampling_rate=RATE, return_tensors="pt")
        if ctc:
            heard = model(**inputs).logits.argmax(-1)
            found += processor.batch_decode(heard)
        else:
            heard = model.generate(**inputs, do_sample=False, num_beams=1)
            found += processor.batch_decode(heard, skip_special_tokens=True)
        done(1)
    return found


def _samples(encoded: str) -> np.ndarray:
    with wave.open(io.BytesIO(base64.b64decode(encoded))) as sound:
        raw = sound.readframes(sound.getnframes())
    return np.frombuffer(raw, "<i2").astype(np.float32) / 32768


def words_right(heard: Sequence[str], said: Sequence[str]) -> int:
    """``len(said)`` less the word errors (substitutions, insertions, deletions), not below 0."""
    row = list(range(len(said) + 1))
    for i, word in enumerate(heard, 1):
        before, row[0] = row[0], i
        for j, other in enumerate(said, 1):
            cost = before + (word != other)
            before = row[j]
            row[j] = min(cost, row[j] + 1, row[j - 1] + 1)
    return max(0, len(said) - row[-1])
