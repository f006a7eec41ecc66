"""The header of a safetensors file, read strictly and written canonically.

Format: 8 bytes little-endian length N, N bytes of JSON padded with spaces, then the data
(https://github.com/huggingface/safetensors#format). The reference reader accepts things two
readers can disagree on (duplicate keys, unknown fields) and headers that cost a gigabyte of
memory; nothing of the kind passes here.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from .dtypes import DTYPES
from .errors import TensorFileError, _
from .source import ByteSource, read_bytes

MAX_HEADER_BYTES = 16 * 2**20
MAX_TENSORS = 100_000  # a 256-expert mixture in one file has about 90 000
MAX_METADATA_BYTES = 2**20
MAX_RANK = 8
# Data of the files we write starts at a page, so tensors and storage parts align.
DATA_ALIGNMENT = 4096
_MAX_EXTENT = 2**63 - 1

_PICKLES = (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_NAME = re.compile(r"[A-Za-z0-9_.\-/:+@ ]{1,512}")
_SURROGATE = re.compile("[\ud800-\udfff]")  # half a character: JSON can spell it, UTF-8 cannot


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor of one file. ``start``/``stop`` are byte offsets in the file itself."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def nbytes(self) -> int:
        return self.stop - self.start

    @property
    def count(self) -> int:
        """Number of elements."""
        return self.nbytes // DTYPES[self.dtype].size


@dataclass(frozen=True)
class Header:
    """What a file says of itself: its tensors in the order of their data, and free metadata."""

    tensors: tuple[TensorEntry, ...]
    metadata: dict[str, str]
    data_start: int


def read_header(source: ByteSource) -> Header:
    """Read and check the header of ``source``.

    Refuses whatever is ambiguous, oversized, overlapping, incomplete or of unknown dtype.
    Raises TensorFileError with a sentence that names the file and, where there is one, the tensor.
    """
    fail = _Failure(source.name)
    if source.size < 10:
        fail(_("%(file)s is not a safetensors file: it has only %(size)d bytes."), size=source.size)
    (length,) = struct.unpack("<Q", read_bytes(source, 0, 8))
    # The length of a proper header may happen to begin like a pickle: 640 is 80 02.
    if read_bytes(source, 0, 2) in _PICKLES and read_bytes(source, 8, 9) != b"{":
        fail(
            _(
                "%(file)s is a pickle, not a safetensors file. A pickle can run code, so it is "
                "never opened here: save it again with safetensors."
            )
        )
    if length > MAX_HEADER_BYTES and length <= source.size - 8:
        fail(
            _("%(file)s has a header of %(length)d bytes; at most %(limit)d are accepted."),
            length=length,
            limit=MAX_HEADER_BYTES,
        )
    if length > source.size - 8:
        fail(
            _(
                "%(file)s is not a safetensors file, or it is cut off: its header should be "
                "%(length)d bytes long and the file has %(size)d."
            ),
            length=length,
            size=source.size,
        )
    raw = read_bytes(source, 8, 8 + length)
    if not raw.startswith(b"{"):
        fail(_("%(file)s is not a safetensors file: its header does not start with '{'."))
    if raw.count(b"{") > MAX_TENSORS + 2:
        fail(_("%(file)s names more than %(limit)d tensors."), limit=MAX_TENSORS)
    document = _parse_json(raw, fail)
    metadata = _check_metadata(document.pop("__metadata__", {}), fail)
    data_start = 8 + length
    entries = [_check_entry(name, value, data_start, fail) for name, value in document.items()]
    if not entries:
        fail(_("%(file)s contains no tensor."))
    entries.sort(key=lambda entry: (entry.start, entry.stop))
    end = data_start
    for entry in entries:
        if entry.start < end:
            fail(
                _("%(file)s: the data of `%(tensor)s` overlaps another tensor."), tensor=entry.name
            )
        if entry.start > end:
            fail(
                _("%(file)s: there is a hole of %(gap)d bytes before `%(tensor)s`."),
                tensor=entry.name,
                gap=entry.start - end,
            )
        end = entry.stop
    if end > source.size:
        fail(
            _(
                "%(file)s is cut off: its header promises %(expected)d bytes and the file has "
                "%(size)d. Upload it again."
            ),
            expected=end,
            size=source.size,
        )
    if end < source.size:
        fail(
            _("%(file)s has %(extra)d bytes after its last tensor that nothing describes."),
            extra=source.size - end,
        )
    return Header(tuple(entries), metadata, data_start)


def write_header(
    tensors: Sequence[tuple[str, str, tuple[int, ...]]], metadata: Mapping[str, str] | None = None
) -> bytes:
    """Return the header bytes of a file that holds ``tensors`` (name, dtype, shape) in this order.

    Padded with spaces so that the data starts at a multiple of ``DATA_ALIGNMENT``.
    """
    document: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for name, dtype, shape in tensors:
        nbytes = tensor_bytes(dtype, shape)
        document[name] = {
            "dtype": dtype,
            "shape": list(shape),
            "data_offsets": [offset, offset + nbytes],
        }
        offset += nbytes
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-(8 + len(text)) % DATA_ALIGNMENT)
    return struct.pack("<Q", len(text)) + text


def tensor_bytes(dtype: str, shape: Sequence[int]) -> int:
    """Bytes that a tensor of ``dtype`` and ``shape`` takes (Python integers: no overflow)."""
    size = DTYPES[dtype].size
    for extent in shape:
        size *= extent
    return size


class _Failure:
    def __init__(self, file: str) -> None:
        self.file = file

    def __call__(self, template: str, **params: Any) -> NoReturn:
        raise TensorFileError(template, file=self.file, **params)


def _parse_json(raw: bytes, fail: _Failure) -> dict[str, Any]:
    text = raw.rstrip(b" ")

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(items)
        if len(found) != len(items):
            seen: set[str] = set()
            for name, _value in items:
                if name in seen:
                    fail(
                        _("%(file)s: the key `%(tensor)s` appears twice in the header."),
                        tensor=shown(name),
                    )
                seen.add(name)
        return found

    def no_float(token: str) -> NoReturn:
        fail(
            _("%(file)s: the header contains %(token)s where an integer belongs."),
            token=shown(token),
        )

    try:
        document = json.loads(
            text.decode("utf-8"),
            object_pairs_hook=pairs,
            parse_float=no_float,
            parse_constant=no_float,
        )
    except TensorFileError:
        raise
    except (ValueError, RecursionError):
        fail(_("%(file)s is not a safetensors file: its header is not valid JSON."))
    if not isinstance(document, dict):
        fail(_("%(file)s is not a safetensors file: its header is not a JSON object."))
    return document


def _check_metadata(metadata: Any, fail: _Failure) -> dict[str, str]:
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        fail(_("%(file)s: `__metadata__` must map text to text."))
    if sum(len(key) + len(value) for key, value in metadata.items()) > MAX_METADATA_BYTES:
        fail(_("%(file)s: `__metadata__` is larger than 1 MiB."))
    if any(_SURROGATE.search(text) for pair in metadata.items() for text in pair):
        fail(_("%(file)s: `__metadata__` contains a character that is not text."))
    return metadata


def _check_entry(name: str, value: Any, data_start: int, fail: _Failure) -> TensorEntry:
    if not _NAME.fullmatch(name) or ".." in name.split("/"):
        fail(_("%(file)s: `%(tensor)s` is not a usable tensor name."), tensor=shown(name))
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        fail(_("%(file)s: `%(tensor)s` needs exactly dtype, shape and data_offsets."), tensor=name)
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        fail(
            _("%(file)s: `%(tensor)s` has the dtype %(dtype)s, which is not supported."),
            tensor=name,
            dtype=shown(str(dtype)),
        )
    if not _are_naturals(shape) or len(shape) > MAX_RANK:
        fail(_("%(file)s: the shape of `%(tensor)s` is not valid."), tensor=name)
    if not _are_naturals(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        fail(_("%(file)s: the data_offsets of `%(tensor)s` are not valid."), tensor=name)
    if tensor_bytes(dtype, shape) != offsets[1] - offsets[0]:
        fail(
            _(
                "%(file)s: `%(tensor)s` is %(dtype)s of shape %(shape)s, %(expected)d bytes, but "
                "its data has %(actual)d."
            ),
            tensor=name,
            dtype=dtype,
            shape=" × ".join(map(str, shape)) or "()",
            expected=tensor_bytes(dtype, shape),
            actual=offsets[1] - offsets[0],
        )
    return TensorEntry(name, dtype, tuple(shape), data_start + offsets[0], data_start + offsets[1])


def _are_naturals(value: Any) -> bool:
    return isinstance(value, list) and all(
        type(item) is int and 0 <= item <= _MAX_EXTENT for item in value
    )


def shown(text: str) -> str:
    """``text`` as a sentence can carry it: short, printable, encodable."""
    return repr(text[:80])[1:-1]
