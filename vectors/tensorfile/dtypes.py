"""The dtypes of the safetensors format: their sizes, and what Armory may do with them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Dtype:
    """One element type as safetensors names it.

    ``size`` is bytes per element. ``mergeable`` types are numbers an ability can live in;
    the others (integers, booleans, block scales) are carried unchanged from the target.
    """

    name: str
    size: int
    mergeable: bool


DTYPES: dict[str, Dtype] = {
    dtype.name: dtype
    for dtype in (
        Dtype("F64", 8, True),
        Dtype("F32", 4, True),
        Dtype("F16", 2, True),
        Dtype("BF16", 2, True),
        Dtype("F8_E4M3", 1, True),
        Dtype("F8_E5M2", 1, True),
        Dtype("F8_E8M0", 1, False),
        Dtype("I64", 8, False),
        Dtype("I32", 4, False),
        Dtype("I16", 2, False),
        Dtype("I8", 1, False),
        Dtype("U64", 8, False),
        Dtype("U32", 4, False),
        Dtype("U16", 2, False),
        Dtype("U8", 1, False),
        Dtype("BOOL", 1, False),
    )
}
