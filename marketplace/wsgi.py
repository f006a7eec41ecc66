"""The site for a WSGI server. ASGI is what Armory is run on: it streams large files without
holding a thread for each reader."""

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "marketplace.settings")

application = get_wsgi_application()
