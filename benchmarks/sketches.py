"""What sketches cost and how quickly they answer: ``python -m benchmarks --sketches``.

Inspection with and without a sketch, two vectors side by side, a forecast, and one vector held
against ten thousand others of its foundation, on a database and storage of their own. The
foundation has the shapes of a Llama of 1.1 B parameters, the vectors are random LoRAs of it: a few
whole sketches, filed under ten thousand names with rows of their own.
"""

from __future__ import annotations

import hashlib
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from vectors.tensorfile.sketch import Sketcher
from vectors.tensorfile.sketch_format import Sketch

from .sizes import SIZES

VECTORS = 10_000
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
        _ranking(Path(folder), prototypes)


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


def _ranking(folder: Path, prototypes: list[Sketch]) -> None:
    """One against all, in a shop of its own."""
    os.environ["ARMORY_DATA"] = str(folder)
    os.environ["DJANGO_SETTINGS_MODULE"] = "marketplace.settings"
    for name in ("ARMORY_DATABASE", "ARMORY_BLOBS", "ARMORY_S3_BUCKET"):
        os.environ.pop(name, None)
    import django

    django.setup()
    from django.contrib.auth.models import AnonymousUser
    from django.core.management import call_command
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    from vectors.neighbours import neighbours

    call_command("migrate", verbosity=0)
    version = _filled(folder, prototypes)
    everybody = AnonymousUser()

    def rank() -> None:
        assert neighbours(version, user=everybody) is not None

    print()
    _line(f"one against {VECTORS:,}, the first time (the rows' file is written)", _median(rank, 1))
    later = _median(rank)
    _line(f"one against {VECTORS:,}, later", later)
    with CaptureQueriesContext(connection) as queries:
        rank()
    _line(f"queries of that: {len(queries)}")
    _line(f"target: below {TARGET:g} s: {'met' if later[0] < TARGET else 'MISSED'}")


def _filled(folder: Path, prototypes: list[Sketch]):  # type: ignore[no-untyped-def]
    """A foundation with ``VECTORS`` + 1 published vectors; returns the version of one."""
    from django.contrib.auth.models import User

    from vectors.keeping import store_bytes
    from vectors.models import Blob, Foundation, Vector, Version
    from vectors.models import Sketch as SketchRow
    from vectors.sketches import layout_of
    from vectors.storage.base import blob_key
    from vectors.tensorfile import sketch_format

    user = User.objects.create_user("ann")
    foundation = Foundation.objects.create(
        namespace="lab",
        name="llama",
        fingerprint=FINGERPRINT,
        parameters=SIZE.parameters,
        nbytes=2 * SIZE.parameters,
        dtype="BF16",
        manifest={name: ["BF16", list(shape), 1.0] for name, shape in SIZE.tensors().items()},
    )
    layout = layout_of(foundation)
    generator = np.random.default_rng(1)
    files, rows = [], []
    for sketch in prototypes:
        files.append(folder / "blobs" / blob_key(_stored(store_bytes, sketch.to_bytes())))
        rows.append(np.frombuffer(layout.row(sketch), np.int8))
    blobs, kept = [], []
    for number in range(VECTORS + 1):
        sha = hashlib.sha256(str(number).encode()).hexdigest()
        path = folder / "blobs" / blob_key(sha)
        path.parent.mkdir(exist_ok=True)
        path.hardlink_to(files[number % PROTOTYPES])
        blobs.append(Blob(sha256=sha, size=path.stat().st_size))
        row = rows[number % PROTOTYPES].copy()
        row[4:] = np.clip(row[4:] + generator.integers(-20, 20, layout.width), -127, 127)
        kept.append(row.tobytes())
    Blob.objects.bulk_create(blobs)
    vectors = Vector.objects.bulk_create(
        Vector(namespace="ann", name=f"v{n}", owner=user, foundation=foundation, equips=n % 97)
        for n in range(VECTORS + 1)
    )
    versions = Version.objects.bulk_create(
        Version(
            owner=user,
            vector=vector,
            number=1,
            foundation=foundation,
            state="published",
            form="lora",
            digest=blob.sha256,
        )
        for vector, blob in zip(vectors, blobs, strict=True)
    )
    for vector, version in zip(vectors, versions, strict=True):
        vector.current = version
    Vector.objects.bulk_update(vectors, ["current"], batch_size=500)
    SketchRow.objects.bulk_create(
        [
            SketchRow(
                version=version,
                blob=blob,
                format=sketch_format.VERSION,
                norm=1.0,
                entries=1,
                changed=1,
                row=row,
            )
            for version, blob, row in zip(versions, blobs, kept, strict=True)
        ],
        batch_size=500,
    )
    return Version.objects.select_related("foundation").get(pk=versions[0].pk)


def _stored(store_bytes: Callable[[bytes], object], content: bytes) -> str:
    from django.db import transaction

    with transaction.atomic():
        return str(store_bytes(content))


if __name__ == "__main__":
    main()
