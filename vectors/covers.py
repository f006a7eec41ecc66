"""Cover pictures: decoded once under limits, cut to size, stored as WebP without metadata."""

from __future__ import annotations

import io
import struct
import warnings
from typing import IO

from django.db import transaction
from PIL import Image, ImageOps, UnidentifiedImageError

from vectors.dropping import drop_unreferenced
from vectors.errors import Refusal, _
from vectors.keeping import store_bytes
from vectors.models import Vector

MAX_BYTES = 10 * 2**20
MAX_PIXELS = 40_000_000
FORMATS = ("PNG", "JPEG", "WEBP")
LARGE = (1280, 640)
SMALL = (480, 240)


def set_cover(vector: Vector, picture: IO[bytes], size: int) -> None:
    """Give ``vector`` a cover. Raises Refusal when the file is no picture, or a hostile one."""
    if size > MAX_BYTES:
        raise Refusal(
            _("The picture has %(size).1f MB; at most %(limit)d MB are accepted."),
            size=size / 1e6,
            limit=MAX_BYTES // 2**20,
        )
    image = read_picture(picture.read(MAX_BYTES + 1))
    _change(vector, _webp(image, LARGE), _webp(image, SMALL))


def remove_cover(vector: Vector) -> None:
    """Go back to the sigil."""
    _change(vector, None, None)


def _change(vector: Vector, large: bytes | None, small: bytes | None) -> None:
    before = [pk for pk in (vector.cover_id, vector.cover_small_id) if pk]
    with transaction.atomic():
        vector.cover = store_bytes(large) if large else None
        vector.cover_small = store_bytes(small) if small else None
        vector.save(update_fields=["cover", "cover_small"])
    drop_unreferenced(before)


def read_picture(content: bytes) -> Image.Image:
    """Decode a picture; its declared size is checked before a single pixel is."""
    with warnings.catch_warnings():
        # Pillow warns from 89 million pixels on; our own limit is lower and an error.
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            image = Image.open(io.BytesIO(content), formats=FORMATS)
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise Refusal(
                    _(
                        "The picture has %(width)d × %(height)d pixels; at most %(limit)d million "
                        "are accepted. Make it smaller first."
                    ),
                    width=width,
                    height=height,
                    limit=MAX_PIXELS // 10**6,
                )
            image.load()
            return ImageOps.exif_transpose(image)  # reads metadata, which may be anything
        except Refusal:
            raise
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            raise Refusal(
                _(
                    "The picture has far more than %(limit)d million pixels, the most that are "
                    "accepted. Make it smaller first."
                ),
                limit=MAX_PIXELS // 10**6,
            ) from None
        except (UnidentifiedImageError, OSError, ValueError, SyntaxError, struct.error):
            raise Refusal(
                _("This is not a picture we can read: choose a PNG, JPEG or WebP file.")
            ) from None


def _webp(image: Image.Image, size: tuple[int, int]) -> bytes:
    fitted = ImageOps.fit(image.convert("RGB"), size, Image.Resampling.LANCZOS)
    clean = Image.new("RGB", fitted.size)
    clean.paste(fitted)  # a new image carries no EXIF, profile or comment
    out = io.BytesIO()
    clean.save(out, "WEBP", quality=82)
    return out.getvalue()
