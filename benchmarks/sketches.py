"""What sketches cost and how quickly they answer: ``python -m benchmarks --sketches``.

Inspection with and without a sketch, two vectors side by side, a forecast, one vector held against
ten thousand others of its foundation, and the pages of that shop over HTTP, on a database and
storage of their own. The foundation has the shapes of a Llama of 1.1 B parameters, the vectors are
random LoRAs of it: a few whole sketches, filed under ten thousand names with rows of their own.
"""

from __future__ import annotations

import hashlib
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from vectors.tensorfile.sketch import Sketcher
from vectors.tensorfile.sketch_format import Sketch

from .sizes import SIZES

CROWDS = (10, 1_000, 10_000)  # others in the shop: what is counted must not grow with them
PROTOTYPES = 16
RANK = 8
TERMS = 8
ROUNDS = 10
TARGET = 1.0  # second, to hold one against all
SIZE = SIZES["1.1"]
FINGERPRINT = hashlib.sha256(b"benchmark").hexdigest()


def main() -> None:
    """Measure and print."""
    print(f"# Sketches\n\nFoundation: {SIZE.parameters / 1e9:.1f} B parameters, "
          f"{len(SIZE.tensors())} tensors. Medians of {ROUNDS} rounds.\n")  # fmt: skip
    _inspection()
    prototypes = [_lora(seed) for seed in range(PROTOTYPES)]
    _line("sketch of a LoRA of all matrices", _median(lambda: _lora(0), 3))
    _line(f"its stored bytes: {len(prototypes[0].to_bytes()):,}")
    _pairs(prototypes)
    with tempfile.TemporaryDirectory(prefix="armory-bench-") as folder:
        _shop(Path(folder), prototypes)


Times = tuple[float, float]  # wall, and the processor's


def _line(text: str, times: Times | None = None) -> None:
    wall, cpu = times or (0.0, 0.0)
    print(f"- {text}" + (f": {wall * 1e3:,.1f} ms ({cpu * 1e3:,.1f} of CPU)" if times else ""))


def _median(call: Callable[[], object], rounds: int = ROUNDS) -> Times:
    walls, cpus = [], []
    for _round in range(rounds):
        wall, cpu = time.perf_counter(), time.process_time()
        call()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return statistics.median(walls), statistics.median(cpus)


def _inspection() -> None:
    """A full fine-tune's largest matrices, bf16, measured without and with a sketch."""
    from vectors.tensorfile.checkpoint import Checkpoint
    from vectors.tensorfile.header import write_header
    from vectors.tensorfile.measure import measure
    from vectors.tensorfile.source import MemorySource

    shape = (SIZE.inner, SIZE.width)
    generator = np.random.default_rng(0)
    sources = []
    for scale in (1.0, 1.01):
        numbers = generator.standard_normal(shape, np.float32) * np.float32(scale)
        raw = (numbers.view(np.uint32) >> 16).astype(np.uint16).tobytes()
        data = write_header([("w", "BF16", shape)]) + raw
        sources.append(Checkpoint.open({"model.safetensors": MemorySource(data, "w")}))
    base, tuned = (source.tensors["w"] for source in sources)

    def sketched() -> None:
        sketcher = Sketcher(FINGERPRINT)
        sampler = sketcher.begin("w", base.count)
        measure(tuned, base, on_delta=sampler.block)
        sketcher.end(sampler)

    sketched()
    plain, whole = _median(lambda: measure(tuned, base)), _median(sketched)
    _line(f"inspection of a matrix of {tuned.nbytes / 1e6:.0f} MB, without a sketch", plain)
    _line("inspection with it", whole)


def _lora(seed: int) -> Sketch:
    """A LoRA of every matrix of the layers."""
    generator = np.random.default_rng(seed)
    sketcher = Sketcher(FINGERPRINT)
    for name, shape in SIZE.tensors().items():
        if len(shape) == 2 and ".layers." in name:
            left = generator.standard_normal((shape[0], RANK))
            right = generator.standard_normal((RANK, shape[1]))
            sampler = sketcher.begin(name, shape[0] * shape[1])
            sampler.factors(left, right, 0.01)
            sketcher.end(sampler)
    return sketcher.finish()


def _pairs(sketches: list[Sketch]) -> None:
    from merging.engine.advice import advise, notes
    from merging.engine.forecast import Base, Item, forecast
    from vectors.tensorfile.likeness import compare
    from vectors.tensorfile.sketch_format import read_sketch

    data = sketches[0].to_bytes()
    compare(sketches[0], sketches[1])
    _line("reading a stored sketch", _median(lambda: read_sketch(data)))
    _line("comparing two", _median(lambda: compare(sketches[0], sketches[1])))
    items = [Item(str(i), "lora", sketches[i]) for i in range(TERMS)]
    base = Base(dict.fromkeys(SIZE.tensors(), 1.0), SIZE.parameters)

    def whole() -> None:
        found = forecast(items, base)
        advise(found)
        notes(found)

    _line(f"forecast of {TERMS} vectors, {TERMS * (TERMS - 1) // 2} pairs", _median(whole))


def _shop(folder: Path, prototypes: list[Sketch]) -> None:
    """One against all, in a shop of its own; then the pages of that shop."""
    from . import crowd

    crowd.open_shop(folder)
    from django.contrib.auth.models import AnonymousUser
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    from vectors.neighbours import neighbours

    from . import pages

    shop = crowd.Shop(folder, SIZE, FINGERPRINT, prototypes)
    counted = {}
    for many in CROWDS:
        shop.grow(many + 1)
        counted[many] = pages.counted(shop)
    version = shop.version(0)
    everybody = AnonymousUser()

    def rank() -> None:
        assert neighbours(version, user=everybody) is not None

    print()
    shop.forget_rows()
    _line(f"one against {CROWDS[-1]:,}, the first time (rows' file written)", _median(rank, 1))
    later = _median(rank)
    _line(f"one against {CROWDS[-1]:,}, later", later)
    with CaptureQueriesContext(connection) as queries:
        rank()
    _line(f"queries of that: {len(queries)}")
    _line(f"target: below {TARGET:g} s: {'met' if later[0] < TARGET else 'MISSED'}")
    print(f"\n{pages.report(shop, counted)}")


if __name__ == "__main__":
    main()
