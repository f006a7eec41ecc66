"""The transport as a site of its own: `uvicorn tests.vectors.site:application`.

With the whole middleware of the real site; only addresses and pages are bare.
"""

import os

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.vectors.site_settings"

from django.core.asgi import get_asgi_application

application = get_asgi_application()

from vectors import uploads  # noqa: E402

uploads.PART = int(os.environ.get("TEST_PART", uploads.PART))
