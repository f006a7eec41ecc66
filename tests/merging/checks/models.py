"""Tiny models of every kind with random weights, and what transformers itself says of them."""

from __future__ import annotations

import base64
import io
import json
import wave
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2Processor,
)

WORDS = "the a film book was is good bad long short very not and but i you it".split()
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {word: n for n, word in enumerate([*SPECIAL, *WORDS])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]",
        sep_token="[SEP]", mask_token="[MASK]",
    )  # fmt: skip


def sentences(count: int, seed: int = 0) -> list[str]:
    draw = np.random.default_rng(seed)
    return [" ".join(draw.choice(WORDS, draw.integers(3, 12))) for _ in range(count)]


def _bert(labels: int = 2) -> BertConfig:
    return BertConfig(
        vocab_size=len(SPECIAL) + len(WORDS), hidden_size=32, num_hidden_layers=2,
        num_attention_heads=2, intermediate_size=64, max_position_embeddings=32, num_labels=labels,
        initializer_range=0.8,
    )  # fmt: skip


def classifier(folder: Path) -> BertForSequenceClassification:
    torch.manual_seed(1)
    model = BertForSequenceClassification(_bert(3)).eval()
    return _save(model, folder)


def gap_filler(folder: Path) -> BertForMaskedLM:
    torch.manual_seed(2)
    return _save(BertForMaskedLM(_bert()).eval(), folder)


def writer(folder: Path) -> GPT2LMHeadModel:
    torch.manual_seed(3)
    config = GPT2Config(
        vocab_size=len(SPECIAL) + len(WORDS), n_positions=64, n_embd=32, n_layer=2, n_head=2,
        initializer_range=0.8, bos_token_id=2, eos_token_id=3,
    )  # fmt: skip
    return _save(GPT2LMHeadModel(config).eval(), folder)


def listener(folder: Path) -> tuple[Wav2Vec2ForCTC, Wav2Vec2Processor]:
    torch.manual_seed(4)
    folder.mkdir()
    letters = ["<pad>", "<s>", "</s>", "<unk>", "|", *"abcde"]
    (folder / "vocab.json").write_text(json.dumps({c: n for n, c in enumerate(letters)}))
    processor = Wav2Vec2Processor(
        Wav2Vec2FeatureExtractor(), Wav2Vec2CTCTokenizer(str(folder / "vocab.json"))
    )
    config = Wav2Vec2Config(
        vocab_size=len(letters), hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=64, conv_dim=(16, 16), conv_stride=(40, 8), conv_kernel=(80, 16),
        num_feat_extract_layers=2, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2,
        initializer_range=0.8,
    )  # fmt: skip
    model = Wav2Vec2ForCTC(config).eval()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model, processor


def sound(seed: int) -> tuple[np.ndarray, str]:
    """Half a second of noise: as numbers, and as a WAV in base64."""
    draw = np.random.default_rng(seed)
    samples = (draw.normal(0, 0.2, 8000).clip(-1, 1) * 32767).astype("<i2")
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(samples.tobytes())
    return samples.astype(np.float32) / 32768, base64.b64encode(out.getvalue()).decode()


def _save(model: Any, folder: Path) -> Any:
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return model
