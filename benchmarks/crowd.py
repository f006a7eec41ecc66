"""A shop with thousands of vectors of one foundation, made in seconds: rows in bulk, and a few
sketches of the real format filed under many names.

Every vector has what a card and a page show: a title, a summary, the words it is found by, layers
and a sigil, a stated ability, a file. The rows that are compared are its own, those of a prototype
with noise.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vectors.tensorfile.sketch_format import Sketch

from .sizes import Size

if TYPE_CHECKING:
    from vectors.models import Blob, Vector, Version

RECIPES = 300  # equipped models with a check, for the pages that look for them
FOUNDATION = "lab/llama"
_BATCH = 500
_WORDS = "law mood code maths poems news chess recipes travel history birds tax".split()
_TASKS = ("text-generation", "text-classification", "translation")
_LICENCES = ("mit", "apache-2.0", "cc-by-4.0")


def open_shop(folder: Path) -> None:
    """An empty database and storage in ``folder``, and Django set up for them."""
    os.environ.update(settings_of(folder))
    for name in ("ARMORY_DATABASE", "ARMORY_BLOBS", "ARMORY_S3_BUCKET"):
        os.environ.pop(name, None)
    import django

    django.setup()
    from django.core.management import call_command

    call_command("migrate", verbosity=0)


def settings_of(folder: Path) -> dict[str, str]:
    """The environment of the shop in ``folder``."""
    return {
        "ARMORY_DATA": str(folder),
        "ARMORY_DEMO": "0",
        "ARMORY_CHECKS_AT_ONCE": "0",
        "DJANGO_SETTINGS_MODULE": "marketplace.settings",
    }


class Shop:
    """Vectors ``ann/v0``, ``ann/v1`` and so on, of the foundation lab/llama; ``bo`` buys."""

    def __init__(
        self, folder: Path, size: Size, fingerprint: str, prototypes: Sequence[Sketch]
    ) -> None:
        from django.contrib.auth.models import User
        from django.db import transaction

        from vectors.keeping import store_bytes
        from vectors.models import Foundation
        from vectors.sketches import layout_of
        from vectors.storage.base import blob_key

        self.folder, self.count = folder, 0
        self.owner, self.buyer = User.objects.create_user("ann"), User.objects.create_user("bo")
        self.foundation = Foundation.objects.create(
            namespace="lab",
            name="llama",
            fingerprint=fingerprint,
            parameters=size.parameters,
            nbytes=2 * size.parameters,
            dtype="BF16",
            manifest={name: ["BF16", list(shape), 1.0] for name, shape in size.tensors().items()},
        )
        layout = layout_of(self.foundation)
        self._rows = [np.frombuffer(layout.row(sketch), np.int8) for sketch in prototypes]
        self._width = layout.width
        self._layers = [_layers(sketch) for sketch in prototypes]
        with transaction.atomic():
            stored = [store_bytes(sketch.to_bytes()).sha256 for sketch in prototypes]
        self._files = [folder / "blobs" / blob_key(sha) for sha in stored]

    def grow(self, count: int) -> None:
        """Publish more vectors, up to ``count``."""
        from vectors.models import RepositoryFile, Vector, Version
        from vectors.models import Sketch as SketchRow
        from vectors.tensorfile import sketch_format

        numbers = range(self.count, count)
        blobs = self._blobs(numbers)
        vectors = Vector.objects.bulk_create([self._vector(n) for n in numbers], _BATCH)
        versions = Version.objects.bulk_create(
            [
                self._version(number, vector, blob)
                for number, vector, blob in zip(numbers, vectors, blobs, strict=True)
            ],
            _BATCH,
        )
        for vector, version in zip(vectors, versions, strict=True):
            vector.current = version
        Vector.objects.bulk_update(vectors, ["current"], batch_size=_BATCH)
        _index(vectors)
        RepositoryFile.objects.bulk_create(
            [
                RepositoryFile(version=version, path="adapter_model.safetensors", blob=blob)
                for version, blob in zip(versions, blobs, strict=True)
            ],
            _BATCH,
        )
        SketchRow.objects.bulk_create(
            [
                SketchRow(
                    version=version,
                    blob=blob,
                    format=sketch_format.VERSION,
                    norm=1.0,
                    entries=1,
                    changed=1,
                    row=self._row(number),
                )
                for number, version, blob in zip(numbers, versions, blobs, strict=True)
            ],
            _BATCH,
        )
        self._recipes(versions[:RECIPES])
        self.count = count

    def version(self, number: int) -> Version:
        """The version of ``ann/v<number>``."""
        from vectors.models import Version

        return Version.objects.select_related("foundation").get(vector__name=f"v{number}")

    def forget_rows(self) -> None:
        """Delete the file of rows, as before the first question."""
        from vectors import neighbours

        shutil.rmtree(self.folder / "sketches", ignore_errors=True)
        neighbours._row_file.cache_clear()

    def _blobs(self, numbers: range) -> list[Blob]:
        """Each with a name of its own for the file of a prototype."""
        from vectors.models import Blob
        from vectors.storage.base import blob_key

        blobs = []
        for number in numbers:
            sha = hashlib.sha256(str(number).encode()).hexdigest()
            path = self.folder / "blobs" / blob_key(sha)
            path.parent.mkdir(exist_ok=True)
            path.hardlink_to(self._files[number % len(self._files)])
            blobs.append(Blob(sha256=sha, size=path.stat().st_size))
        return Blob.objects.bulk_create(blobs, _BATCH)

    def _row(self, number: int) -> bytes:
        generator = np.random.default_rng(number)
        row = self._rows[number % len(self._rows)].copy()
        row[4:] = np.clip(row[4:] + generator.integers(-20, 20, self._width), -127, 127)
        return row.tobytes()

    def _vector(self, number: int) -> Vector:
        from vectors.models import Vector
        from vectors.search import index_text

        word = _WORDS[number % len(_WORDS)]
        title, summary = f"{word.title()} {number}", f"What a clerk knows about {word}, lesson"
        return Vector(
            namespace="ann",
            name=f"v{number}",
            title=title,
            summary=summary,
            search_text=index_text(f"ann v{number}", title, summary),
            owner=self.owner,
            foundation=self.foundation,
            license=_LICENCES[number % len(_LICENCES)],
            pipeline_tag=_TASKS[number % len(_TASKS)],
            languages=" en fr " if number % 4 else " zh ",
            equips=number % 97,
            likes=number % 31,
            downloads=number % 53,
        )

    def _version(self, number: int, vector: Vector, blob: Blob) -> Version:
        from vectors.drawing import sigil
        from vectors.models import Version

        layers = self._layers[number % len(self._layers)]
        return Version(
            owner=self.owner,
            vector=vector,
            number=1,
            foundation=self.foundation,
            state="published",
            form="lora",
            digest=blob.sha256,
            nbytes=blob.size,
            layers=layers,
            sigil=sigil(layers, blob.sha256),
            verdict={"touched": 154, "of": 201, "ratio": 0.01, "norm": 1.0},
            abilities=[{"name": "held-out", "without": 0.5, "with": 0.75, "n": 400}],
        )

    def _recipes(self, versions: Sequence[Version]) -> None:
        """Two vectors each, checked, and verified together."""
        from merging.models import AbilityCheck, EquippedModel, EquippedTerm

        names = [hashlib.sha256(v.digest.encode()).hexdigest() for v in versions]
        rows = EquippedModel.objects.bulk_create(
            [
                EquippedModel(
                    hash=name,
                    slug=name[:16],
                    canonical="{}",
                    foundation=self.foundation,
                    nbytes=1,
                    report={},
                )
                for name in names
            ],
            _BATCH,
        )
        pairs = zip(rows, versions, [*versions[1:], *versions[:1]], strict=True)
        EquippedTerm.objects.bulk_create(
            [
                EquippedTerm(equipped=row, position=at, version=each, coefficient=1)
                for row, one, other in pairs
                for at, each in enumerate((one, other))
            ],
            _BATCH,
        )
        AbilityCheck.objects.bulk_create(
            [AbilityCheck(equipped=r, state="done", result={"together": True}) for r in rows],
            _BATCH,
        )


def _layers(sketch: Sketch) -> list[dict[str, Any]]:
    """Layers as an inspection keeps them."""
    from vectors.tensorfile.names import layer_of

    squares: dict[tuple[int, str], float] = {}
    for name, square in zip(sketch.names, sketch.squares.tolist(), strict=True):
        squares[layer_of(name)] = squares.get(layer_of(name), 0.0) + square
    total = sum(squares.values())
    return [
        {"label": label, "norm": square**0.5, "ratio": square**0.5 / 100, "share": square / total}
        for (_order, label), square in sorted(squares.items())
    ]


def _index(vectors: Sequence[Vector]) -> None:
    """The words of all of them, as ``vectors.search.index`` files those of one."""
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO vectors_search(rowid, words) VALUES (%s, %s)",
            [(vector.pk, vector.search_text) for vector in vectors],
        )


def cookie_of(user: Any) -> Mapping[str, str]:
    """The header of a visitor who is signed in."""
    from django.conf import settings
    from django.test import Client

    client = Client()
    client.force_login(user, "django.contrib.auth.backends.ModelBackend")
    return {"Cookie": f"{settings.SESSION_COOKIE_NAME}={client.session.session_key}"}
