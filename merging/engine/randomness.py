"""Random numbers by address: the draw for an element is a function of where it stands.

A draw belongs to (recipe seed, term, tensor, element) and to nothing else, so any byte range can
be computed alone, by anyone, and every element of every term has a draw of its own. The name of
seed, term and tensor gives a 64-bit key (BLAKE2b); key and window of 4096 elements give two
32-bit words (splitmix64: Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators",
OOPSLA 2014); these and the place in the window are mixed to 32 bits. The mixer is of the
multiply and xorshift kind, with multipliers of Wellons's search for low bias; 32-bit products are
what every processor has for whole vectors.
"""

from __future__ import annotations

import hashlib

import numpy as np

from vectors.tensorfile.compiled import njit

WINDOW = 4096  # elements that share two words; part of the definition of every draw
CERTAIN = 2**32  # the limit that every draw is below


def key_of(seed: int, term: str, tensor: str) -> int:
    """The 64-bit key of one term's draws for one tensor."""
    name = b"\0".join(part.encode() for part in (str(seed), term, tensor))
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little")


def limit_of(probability: float) -> int:
    """The limit that a draw is below with ``probability``: from 0 to 2³²."""
    return round(min(max(probability, 0.0), 1.0) * CERTAIN)


@njit(nogil=True, cache=True)
def window_words(key, window):
    """Two 32-bit words for the window number ``window`` (both arguments uint64)."""
    x = key + (window + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x = x ^ (x >> np.uint64(31))
    return np.uint32(x), np.uint32(x >> np.uint64(32))


@njit(nogil=True, cache=True)
def draw(place, first, second):
    """The 32 random bits of the element ``place`` (uint32, 0 … 4095) of a window."""
    x = np.uint32(place + first)
    x = np.uint32((x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D))
    x = np.uint32((x ^ (x >> np.uint32(15))) + second)
    x = np.uint32(x * np.uint32(0x846CA68B))
    return np.uint32(x ^ (x >> np.uint32(16)))


@njit(nogil=True, cache=True)
def _fill(out, lo, key):
    for at in range(out.size):
        element = np.uint64(lo + at)
        first, second = window_words(key, element // np.uint64(WINDOW))
        out[at] = draw(np.uint32(element % np.uint64(WINDOW)), first, second)


def draws(key: int, lo: int, hi: int) -> np.ndarray:
    """The draws (uint32, uniform) of the elements ``[lo, hi)``, (n,)."""
    out = np.empty(hi - lo, np.uint32)
    _fill(out, np.uint64(lo), np.uint64(key))
    return out
