"""The site for an ASGI server: `uvicorn marketplace.asgi:application`."""

import os
import tempfile

from django.core.asgi import get_asgi_application
from django.core.handlers.asgi import ASGIHandler

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "marketplace.settings")

django = get_asgi_application()

from django.conf import settings  # noqa: E402

from marketplace.bodies import limit_bodies  # noqa: E402
from merging.engine.run import PIECE_BYTES  # noqa: E402
from vectors.downloads import PIECE  # noqa: E402

# A piece of a download leaves whole; Django would cut it into sixteen.
ASGIHandler.chunk_size = max(PIECE, PIECE_BYTES)

# Request bodies are spooled here; the system's own folder may be small, or memory.
tempfile.tempdir = settings.FILE_UPLOAD_TEMP_DIR
application = limit_bodies(
    django,
    settings.ARMORY_BODY_BYTES,
    {
        "/uploads/form": settings.ARMORY_FORM_BYTES,
        # Clients put up to 100 MB of small files into one commit, in base64.
        "/api/models/.+/commit/.+": 2 * settings.ARMORY_BODY_BYTES,
    },
)
