"""PEFT adapters read as task vectors: τ = scaling · B·A for each adapted matrix.

Source: the PEFT checkpoint format (huggingface.co/docs/peft, "PEFT checkpoint format") and
``peft.tuners.lora.layer``. Only what adds to the weights is accepted; kinds whose effect is not
``θ + ΔW`` (DoRA, IA³, prompts, …) are refused by name.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import regex

from .checkpoint import Checkpoint, Tensor
from .dtypes import DTYPES
from .errors import TensorFileError, _
from .header import shown

PREFIX = "base_model.model."
_LORA_KEY = re.compile(
    r"(?P<module>.+)\.lora_(?P<kind>A|B|embedding_A|embedding_B)(?:\.(?P<weight>weight))?"
)
# Settings under which the adapter is not simply added to the published foundation.
_NOT_ADDITIVE = {
    "use_dora": "DoRA",
    "use_qalora": "QA-LoRA",
    "lora_bias": "LoRA with a bias of its own",
    "layer_replication": "layer replication",
    "trainable_token_indices": "trainable token indices",
    "alora_invocation_tokens": "activated LoRA",
    "megatron_config": "Megatron LoRA",
    "kasa_config": "KaSA",
    "monteclora_config": "MonteCLoRA",
    "use_bdlora": "BD-LoRA",
    "arrow_config": "Arrow routing",
    "target_parameters": "LoRA on bare parameters",
}
_MAX_ALPHA = 2.0**64  # far beyond any; keeps the scale finite in float32
_MATCH_SECONDS = 5.0  # for all patterns of an adapter: each can be made to take years
_MAX_PATTERN = 10_000  # characters
_CHANGES_THE_BASE = ("pissa", "olora", "loftq", "corda", "lora_ga")


@dataclass(frozen=True)
class LowRank:
    """ΔW = scale · left·right for one tensor of the foundation.

    ``left`` is stored (rows, r), or (r, rows) when ``transposed``; ``right`` likewise (r, columns)
    or (columns, r). ``columns`` is the product of all axes but the first.
    """

    left: Tensor
    right: Tensor
    transposed: bool
    rank: int
    scale: float
    shape: tuple[int, ...]


@dataclass
class Adapter:
    """An adapter in terms of the foundation's tensors (names without PEFT's prefix).

    ``replaced`` are whole tensors the adapter brings (modules_to_save, biases): their τ is the
    difference from the foundation.
    """

    low_rank: dict[str, LowRank] = field(default_factory=dict)
    replaced: dict[str, Tensor] = field(default_factory=dict)


def read_adapter(config: Mapping[str, Any], checkpoint: Checkpoint) -> Adapter:
    """Read ``adapter_config.json`` and ``adapter_model.safetensors`` as an Adapter.

    Raises TensorFileError naming the kind that cannot be added, or the tensor that is odd.
    """
    check_additive(config)
    pairs: dict[str, dict[str, Tensor]] = {}
    whole: dict[str, Tensor] = {}
    adapter = Adapter()
    for key, tensor in checkpoint.tensors.items():
        name = key.removeprefix(PREFIX)
        if ".lora_magnitude_vector" in name:
            raise TensorFileError(
                _(
                    "This adapter is a DoRA (`%(tensor)s`): it rescales the weights, so it is not "
                    "a task vector. Merge it into its base and upload the full checkpoint."
                ),
                tensor=key,
            )
        found = _LORA_KEY.fullmatch(name)
        if found:
            pair = pairs.setdefault(found["module"], {})
            if found["kind"] in pair:
                raise _twice(key)
            pair[found["kind"]] = tensor
        elif "lora_" in name:
            raise TensorFileError(
                _("`%(tensor)s` is of a LoRA kind that is not supported."), tensor=key
            )
        else:
            whole[key] = tensor
    patterns = _Patterns(config)
    for module, pair in pairs.items():
        adapter.low_rank[f"{module}.weight"] = _low_rank(module, pair, config, patterns)
    for key, tensor in whole.items():
        name = key.removeprefix(PREFIX).replace(".modules_to_save.", ".")
        bare = name.replace(".base_layer.", ".")  # the bias of an adapted layer is filed below it
        # An adapted embedding comes with a copy of its frozen base, which is no part of τ: it
        # keeps its odd name, so the alignment reports it as left out.
        name = name if bare in adapter.low_rank and bare != name else bare
        if name in adapter.low_rank or name in adapter.replaced:
            raise _twice(key)
        adapter.replaced[name] = tensor
    if not adapter.low_rank and not adapter.replaced:
        raise TensorFileError(_("The adapter holds no LoRA matrices."))
    return adapter


def _twice(key: str) -> TensorFileError:
    return TensorFileError(
        _("The adapter says twice what `%(tensor)s` is: save it again with peft."), tensor=key
    )


def check_additive(config: Mapping[str, Any]) -> None:
    """Raise TensorFileError unless the adapter simply adds to its base's weights."""
    kind = str(config.get("peft_type", "LORA"))
    if kind.upper() != "LORA":
        raise TensorFileError(
            _(
                "This adapter is of the kind %(kind)s. Only LoRA adapters add to the weights: "
                "merge it into its base and upload the full checkpoint."
            ),
            kind=shown(kind),
        )
    for key, name in _NOT_ADDITIVE.items():
        if config.get(key):
            raise TensorFileError(
                _(
                    "This adapter uses %(kind)s (`%(key)s`), which does not simply add to the "
                    "weights. Merge it into its base and upload the full checkpoint."
                ),
                kind=name,
                key=key,
            )
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_CHANGES_THE_BASE):
        raise TensorFileError(
            _(
                "This adapter was started with %(kind)s, which changes the base as well. Convert "
                "it to a plain LoRA when saving (path_initial_model_for_weight_conversion)."
            ),
            kind=shown(start),
        )


def _scaling(config: Mapping[str, Any], patterns: _Patterns, module: str, rank: int) -> float:
    """α/r, or α/√r with rsLoRA, honouring ``rank_pattern`` and ``alpha_pattern``.

    ``rank`` is the rank found in the file; the config must agree with it.
    """
    expected = patterns.value("rank_pattern", module, config.get("r"))
    if expected is not None and type(expected) is not int:
        raise TensorFileError(
            _("The rank of `%(module)s` in adapter_config.json is not a whole number."),
            module=module,
        )
    if expected is not None and expected != rank:
        raise TensorFileError(
            _(
                "`%(module)s` has rank %(rank)d in the file and %(expected)d in "
                "adapter_config.json."
            ),
            module=module,
            rank=rank,
            expected=expected,
        )
    alpha = patterns.value("alpha_pattern", module, config.get("lora_alpha"))
    if not isinstance(alpha, int | float) or isinstance(alpha, bool) or not abs(alpha) < _MAX_ALPHA:
        raise TensorFileError(_("adapter_config.json says no lora_alpha."))
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)


class _Patterns:
    """``rank_pattern`` and ``alpha_pattern`` of a configuration, matched as peft matches them
    (``peft.utils.other.get_pattern_key``): by a whole-name suffix or a regular expression."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._left = _MATCH_SECONDS
        self._patterns = {
            key: list(self._compiled(config, key)) for key in ("rank_pattern", "alpha_pattern")
        }

    def value(self, key: str, module: str, default: Any) -> Any:
        """What the first pattern that fits ``module`` says."""
        with self._timed(key):
            for pattern, value in self._patterns[key]:
                if pattern.match(module, timeout=self._left):
                    return value
        return default

    def _compiled(self, config: Mapping[str, Any], key: str) -> Iterator[tuple[Any, Any]]:
        patterns = config.get(key) or {}
        if not isinstance(patterns, Mapping):
            raise TensorFileError(_("`%(key)s` of adapter_config.json is not a mapping."), key=key)
        for pattern, value in patterns.items():
            with self._timed(key):
                if len(pattern) > _MAX_PATTERN:
                    raise TimeoutError
                try:
                    found = regex.compile(rf"(.*\.)?({pattern})$")
                except (regex.error, RecursionError):
                    continue
            yield found, value

    @contextmanager
    def _timed(self, key: str) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        except TimeoutError:
            self._left = 0.0
        self._left -= time.monotonic() - started
        if self._left <= 0:
            raise TensorFileError(
                _(
                    "The patterns in `%(key)s` of adapter_config.json take too long to match. "
                    "Name the modules instead."
                ),
                key=key,
            )


def _low_rank(
    module: str, pair: dict[str, Tensor], config: Mapping[str, Any], patterns: _Patterns
) -> LowRank:
    embedding = "embedding_A" in pair or "embedding_B" in pair
    a, b = (
        pair.get("embedding_A" if embedding else "A"),
        pair.get("embedding_B" if embedding else "B"),
    )
    if a is None or b is None or len(pair) != 2:
        raise TensorFileError(
            _("The LoRA of `%(module)s` needs one A and one B matrix."), module=module
        )
    for tensor in (a, b):
        if not DTYPES[tensor.dtype].mergeable:
            raise TensorFileError(
                _("`%(tensor)s` is %(dtype)s: the matrices of a LoRA must be floating point."),
                tensor=tensor.name,
                dtype=tensor.dtype,
            )
    if (
        len(a.shape) < 2
        or len(b.shape) < 2
        or a.shape[0] != b.shape[1]
        or a.shape[0] == 0
        or math.prod(b.shape[2:]) != 1
    ):
        raise TensorFileError(
            _("The LoRA matrices of `%(module)s` do not fit each other: A is %(a)s, B is %(b)s."),
            module=module,
            a=" × ".join(map(str, a.shape)),
            b=" × ".join(map(str, b.shape)),
        )
    rank = a.shape[0]
    scale = _scaling(config, patterns, module, rank)
    if embedding:  # peft: ΔW = (B·A)ᵀ; A is (r, vocabulary), B is (width, r)
        return LowRank(a, b, True, rank, scale, (a.shape[1], b.shape[0]))
    if config.get("fan_in_fan_out"):  # Conv1D keeps its weight transposed
        return LowRank(a, b, True, rank, scale, (a.shape[1], b.shape[0]))
    return LowRank(b, a, False, rank, scale, (b.shape[0], *a.shape[1:]))
