"""Files that somebody could upload to confuse, to crash or to exhaust a reader.

One function each, which says what is wrong with its file. ``HOSTILE`` holds them all by name, with
a part of the sentence that refuses the file and the tensor that the sentence has to name.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

F32 = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
HUGE = 150_000


@dataclass(frozen=True)
class Hostile:
    """A file, what the sentence that refuses it says, and the tensor that it names."""

    build: Callable[[], bytes]
    says: str
    tensor: str


HOSTILE: dict[str, Hostile] = {}


def refused(says: str, tensor: str = "") -> Callable[[Callable[[], bytes]], Callable[[], bytes]]:
    """Register a builder of a hostile file."""

    def register(build: Callable[[], bytes]) -> Callable[[], bytes]:
        HOSTILE[build.__name__] = Hostile(build, says, tensor)
        return build

    return register


def file_of(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    """A file with this header (text, or what becomes JSON), this data and this stated length."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def one(data: bytes = b"1234", name: str = "w", **fields: Any) -> bytes:
    """A file with one tensor, F32 of one element but for ``fields``."""
    return file_of({name: {**F32, **fields}}, data)


# Where the data lie


@refused("overlaps", "b")
def overlap() -> bytes:
    """Two tensors share four bytes."""
    spans = {"a": [0, 8], "b": [4, 12]}
    return file_of(
        {n: {**F32, "shape": [2], "data_offsets": s} for n, s in spans.items()}, b"x" * 12
    )


@refused("overlaps", "b")
def same_bytes() -> bytes:
    """Two tensors are the same bytes."""
    return file_of({"a": F32, "b": F32}, b"1234")


@refused("hole of 4 bytes", "b")
def hole() -> bytes:
    """Four bytes between two tensors belong to none: room to hide something."""
    return file_of({"a": F32, "b": {**F32, "data_offsets": [8, 12]}}, b"x" * 12)


@refused("hole of 4 bytes", "w")
def first_offset() -> bytes:
    """The first tensor does not start where the data start."""
    return one(b"x" * 8, data_offsets=[4, 8])


@refused("4 bytes after its last tensor")
def trailing_bytes() -> bytes:
    """Bytes after the last tensor: the file can be something else as well."""
    return one(b"x" * 8)


@refused("cut off")
def truncated() -> bytes:
    """The data end early: an interrupted upload."""
    return one(b"12")


@refused("cut off")
def only_a_header() -> bytes:
    """No data at all."""
    return one(b"")


@refused("data_offsets", "w")
def backwards() -> bytes:
    """A tensor ends before it starts."""
    return one(data_offsets=[4, 0])


@refused("data_offsets", "w")
def negative_offset() -> bytes:
    """A tensor starts inside the header."""
    return one(data_offsets=[-4, 0])


@refused("data_offsets", "w")
def text_offset() -> bytes:
    """Offsets as text, where an integer belongs."""
    return one(data_offsets=["0", "4"])


@refused("4.0 where an integer belongs")
def float_number() -> bytes:
    """4.0 is no offset, although it equals 4."""
    return one(data_offsets=[0, 4.0])


@refused("1e9 where an integer belongs")
def exponent() -> bytes:
    """1e9 is a float in JSON."""
    return file_of(b'{"w":{"dtype":"F32","shape":[1e9],"data_offsets":[0,4]}}', b"1234")


@refused("where an integer belongs")
def not_a_number() -> bytes:
    """NaN is not JSON, but Python reads it."""
    return file_of(b'{"w":{"dtype":"F32","shape":[NaN],"data_offsets":[0,4]}}', b"1234")


@refused("where an integer belongs")
def a_million_digits() -> bytes:
    """A float as long as a book: the sentence must stay a sentence."""
    return file_of(b'{"w":' + b"1" * 10**6 + b".5}")


@refused("data_offsets", "w")
def three_offsets() -> bytes:
    """Three offsets where two belong."""
    return one(data_offsets=[0, 4, 8])


@refused("data_offsets", "w")
def boolean_offset() -> bytes:
    """False is 0 in Python and nothing of the kind in JSON."""
    return one(b"", shape=[0], data_offsets=[False, False])


# Shape and dtype


@refused("the shape of", "w")
def boolean_shape() -> bytes:
    """True is 1 in Python and nothing of the kind in JSON."""
    return one(shape=[True])


@refused("the shape of", "w")
def negative_shape() -> bytes:
    """Two negative extents whose product looks right."""
    return one(shape=[-1, -1])


@refused("the shape of", "w")
def shape_is_a_number() -> bytes:
    """A number where a list belongs."""
    return one(shape=1)


@refused("the shape of", "w")
def rank_nine() -> bytes:
    """More axes than any model has."""
    return one(shape=[1] * 9)


@refused("the shape of", "w")
def rank_100_000() -> bytes:
    """So many axes that a reader's loops hang."""
    return one(shape=[1] * 100_000)


@refused("shape 2, 8 bytes, but its data has 4", "w")
def shape_and_bytes() -> bytes:
    """The shape promises twice the bytes."""
    return one(shape=[2])


@refused("but its data has 4", "w")
def overflow() -> bytes:
    """2^32 · 2^32 elements are 0 in 64 bits."""
    return one(shape=[2**32, 2**32])


@refused("but its data has 4", "w")
def overflow_to_the_right_size() -> bytes:
    """(2^62 + 1) · 4 bytes are 4 in 64 bits."""
    return one(shape=[2**62 + 1])


@refused("the shape of", "w")
def extents_beyond_any_machine() -> bytes:
    """Extents of 4000 digits: their product is a number Python refuses to print."""
    return one(shape=[10**4000, 10**4000])


@refused("not valid JSON")
def a_number_too_long_to_read() -> bytes:
    """An integer of 5000 digits, which Python refuses to read."""
    return file_of(b'{"w":{"dtype":"F32","shape":[1' + b"0" * 5000 + b'],"data_offsets":[0,4]}}')


@refused("dtype F31", "w")
def unknown_dtype() -> bytes:
    """A dtype nobody knows."""
    return one(dtype="F31")


@refused("dtype f32", "w")
def lower_case_dtype() -> bytes:
    """Names are exact."""
    return one(dtype="f32")


@refused("dtype", "w")
def dtype_is_a_list() -> bytes:
    """A list cannot be looked up."""
    return one(dtype=["F32"])


@refused("dtype F4", "w")
def four_bits() -> bytes:
    """Four-bit floats: half a byte an element is not supported."""
    return one(dtype="F4", shape=[8])


# Names and fields


@refused("appears twice", "a")
def duplicate_tensor() -> bytes:
    """One name, two tensors: two readers see two different files."""
    entry = b'"a":{"dtype":"F32","shape":[1],"data_offsets":[%d,%d]}'
    return file_of(b"{" + entry % (0, 4) + b"," + entry % (4, 8) + b"}", b"x" * 8)


@refused("appears twice", "dtype")
def duplicate_field() -> bytes:
    """One tensor, two dtypes."""
    return file_of(b'{"a":{"dtype":"F16","dtype":"F32","shape":[1],"data_offsets":[0,4]}}', b"1234")


@refused("appears twice", "__metadata__")
def duplicate_metadata() -> bytes:
    """Two blocks of metadata."""
    return file_of(
        b'{"__metadata__":{},"__metadata__":{},' + json.dumps({"w": F32})[1:].encode(), b"1234"
    )


@refused("appears twice", "a")
def duplicate_among_many() -> bytes:
    """The last of a million keys is a repetition: comparing all with all would take days."""
    keys = b",".join(b'"%d":0' % number for number in range(10**6))
    return file_of(b"{" + keys + b',"a":0,"a":0}')


@refused("exactly dtype, shape and data_offsets", "w")
def unknown_field() -> bytes:
    """A field that another reader may understand."""
    return one(strides=[1])


@refused("exactly dtype, shape and data_offsets", "w")
def missing_field() -> bytes:
    """A tensor without a shape."""
    return file_of({"w": {"dtype": "F32", "data_offsets": [0, 4]}}, b"1234")


@refused("exactly dtype, shape and data_offsets", "w")
def entry_is_a_list() -> bytes:
    """A list where a tensor belongs."""
    return file_of({"w": ["F32", [1], [0, 4]]}, b"1234")


@refused("not a usable tensor name", r"a\x00b")
def nul_in_a_name() -> bytes:
    """C readers see `a`; PostgreSQL cannot store it."""
    return one(name="a\0b")


@refused("not a usable tensor name", "../../x")
def path_as_a_name() -> bytes:
    """A name that leaves the folder, should somebody use it as a file name."""
    return one(name="../../x")


@refused("not a usable tensor name", "<script>alert(1)</script>")
def html_as_a_name() -> bytes:
    """A name for whoever forgets to escape."""
    return one(name="<script>alert(1)</script>")


@refused("not a usable tensor name")
def empty_name() -> bytes:
    """No name."""
    return one(name="")


@refused("not a usable tensor name", "a" * 80)
def long_name() -> bytes:
    """513 characters."""
    return one(name="a" * 513)


@refused("not a usable tensor name", r"w\n")
def line_break_in_a_name() -> bytes:
    """A pattern that ends in $ lets this pass."""
    return one(name="w\n")


@refused("not a usable tensor name", r"\ud800")
def lone_surrogate() -> bytes:
    """Half a character: valid JSON, no valid text. The sentence must be printable all the same."""
    return one(name="\ud800")


@refused("`__metadata__` must map text to text")
def metadata_is_a_number() -> bytes:
    """Metadata values are text."""
    return file_of({"__metadata__": {"step": 1}, "w": F32}, b"1234")


@refused("`__metadata__` must map text to text")
def metadata_is_null() -> bytes:
    """Metadata that is not there, written down."""
    return file_of({"__metadata__": None, "w": F32}, b"1234")


@refused("`__metadata__` must map text to text")
def metadata_is_nested() -> bytes:
    """Metadata inside metadata."""
    return file_of({"__metadata__": {"a": {"b": "c"}}, "w": F32}, b"1234")


@refused("`__metadata__` is larger than 1 MiB")
def metadata_is_large() -> bytes:
    """Two million characters of metadata."""
    return file_of({"__metadata__": {"a": "x" * 2 * 10**6}, "w": F32}, b"1234")


@refused("`__metadata__` contains a character that is not text")
def metadata_is_not_text() -> bytes:
    """Half a character, which the header of an equipped model could not repeat."""
    return file_of({"__metadata__": {"a": "\ud800"}, "w": F32}, b"1234")


# The JSON itself


@refused("not valid JSON")
def not_utf8() -> bytes:
    """A byte that no UTF-8 text has."""
    return file_of(b'{"\xff":1}')


@refused("not valid JSON")
def overlong_utf8() -> bytes:
    """`/` written in two bytes."""
    return file_of(b'{"\xc0\xaf":1}')


@refused("not valid JSON")
def deep() -> bytes:
    """Deep enough to use up the stack of a recursive reader."""
    return file_of(b'{"a":' + b"[" * 10**6 + b"]" * 10**6 + b"}")


@refused("names more than")
def deep_objects() -> bytes:
    """The same with objects."""
    return file_of(b'{"a":' * HUGE + b"1" + b"}" * HUGE)


@refused("not valid JSON")
def cut_json() -> bytes:
    """The header ends in the middle."""
    return file_of(b'{"w":{"dtype":"F32",')


@refused("not valid JSON")
def two_documents() -> bytes:
    """A second object after the first."""
    return file_of(json.dumps({"w": F32}).encode() + b"{}", b"1234")


@refused("not valid JSON")
def padded_with_nul() -> bytes:
    """Padding is spaces, nothing else."""
    return file_of(json.dumps({"w": F32}).encode() + b"\0\0", b"1234")


@refused("does not start with '{'")
def leading_space() -> bytes:
    """The format wants `{` first, so that the kind of the file can be told."""
    return file_of(b" " + json.dumps({"w": F32}).encode(), b"1234")


@refused("does not start with '{'")
def byte_order_mark() -> bytes:
    """A byte order mark."""
    return file_of(b"\xef\xbb\xbf" + json.dumps({"w": F32}).encode(), b"1234")


@refused("does not start with '{'")
def a_list() -> bytes:
    """JSON, but a list."""
    return file_of(b"[1, 2, 3]")


@refused("contains no tensor")
def no_tensor() -> bytes:
    """A header without tensors."""
    return file_of({"__metadata__": {"format": "pt"}})


@refused("names more than 100000 tensors")
def too_many_tensors() -> bytes:
    """150 000 empty tensors; the reference reader takes a gigabyte for a few more."""
    entry = b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    return file_of(b"{" + b",".join(entry % number for number in range(HUGE)) + b"}")


# Lengths


@refused("only 0 bytes")
def empty() -> bytes:
    """Nothing."""
    return b""


@refused("only 7 bytes")
def seven_bytes() -> bytes:
    """Too short even for the length."""
    return b"1234567"


@refused("only 8 bytes")
def only_a_length() -> bytes:
    """A length and nothing else."""
    return struct.pack("<Q", 100)


@refused("does not start with '{'")
def length_zero() -> bytes:
    """A header of no bytes."""
    return struct.pack("<Q", 0) + b"{}" + b"x" * 20


@refused("should be 18446744073709551615 bytes long")
def length_of_all_ones() -> bytes:
    """2^64 − 1: add eight and it is seven."""
    return file_of({"w": F32}, b"1234", length=2**64 - 1)


@refused("should be 9223372036854775808 bytes long")
def length_of_the_sign() -> bytes:
    """2^63: negative, for readers with signed lengths."""
    return file_of({"w": F32}, b"1234", length=2**63)


@refused("cut off")
def length_beyond_the_file() -> bytes:
    """The header is one byte longer than the file."""
    return file_of({"w": F32}, length=len(json.dumps({"w": F32})) + 1)


@refused("a header of 20000000 bytes")
def large_header() -> bytes:
    """Twenty megabytes of spaces."""
    return file_of(b"{" + b" " * (20 * 10**6 - 1))


@refused("not valid JSON")
def many_short_texts() -> bytes:
    """A header of the largest size that becomes as much memory as it can, then ends wrongly."""
    return file_of(b'{"a":[' + b'"ab",' * 3_300_000 + b"}")


# Other kinds of file


@refused("is a pickle")
def pickle() -> bytes:
    """A pickle of protocol 4; none is ever opened."""
    return (
        b"\x80\x04\x95\x1f\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system" + b"." * 40
    )


@refused("is a pickle")
def torch_zip() -> bytes:
    """What torch.save writes: a zip with a pickle in it."""
    return b"PK\x03\x04\x00\x00\x08\x08\x00\x00\x00\x00\x00\x00archive/data.pkl" + b"x" * 40


@refused("not a safetensors file")
def gguf() -> bytes:
    """Weights for llama.cpp."""
    return b"GGUF\x03\x00\x00\x00" + b"\0" * 60


@refused("not a safetensors file")
def a_web_page() -> bytes:
    """The page that says that the file was not found."""
    return b"<!doctype html><title>404</title>"


@refused("not a safetensors file")
def lfs_pointer() -> bytes:
    """What git leaves where git-lfs is not installed."""
    return b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64


# Legal, if unusual


def legal() -> dict[str, bytes]:
    """Files that look odd and are none the less as the format has them."""
    sizes = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1}
    sizes |= {"I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1}
    sizes |= {"BOOL": 1}
    files = {
        dtype: one(b"x" * 3 * size, dtype=dtype, shape=[3], data_offsets=[0, 3 * size])
        for dtype, size in sizes.items()
    }
    text = json.dumps({"w": F32}).encode()
    files |= {
        "a scalar": one(shape=[]),
        "a tensor of no elements": one(b"", shape=[0, 2**40], data_offsets=[0, 0]),
        "an empty tensor between others": file_of(
            {
                "b": {**F32, "data_offsets": [4, 8]},
                "none": {**F32, "shape": [0], "data_offsets": [4, 4]},
                "a": F32,
            },
            b"x" * 8,
        ),
        "padded with spaces": file_of(text + b" " * 500, b"1234"),
        "metadata": file_of({"__metadata__": {"訓練": "一"}, "w": F32}, b"1234"),
        "rank eight": one(shape=[1] * 8),
        "a name of every accepted sign": one(name="a.b_c-d/e:f+g@h 0"),
        "dots that are no step up": one(name="a..b/.c"),
    }
    # Headers whose length reads like the first two bytes of a pickle or a zip.
    for length in (640, 896, 1152, 1408, 19280):
        files[f"a header of {length} bytes"] = file_of(text.ljust(length), b"1234")
    return files
