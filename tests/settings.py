"""Settings of the tests: the site's own, with a folder that is thrown away and a fast password
hash. pytest-django loads the settings before any conftest.py, so the folder is named here."""

import atexit
import os
import shutil
import tempfile

# Each process of `pytest -n` has its own folder; the data of the developer is never touched.
_folder = tempfile.mkdtemp(prefix="armory-tests-")
atexit.register(shutil.rmtree, _folder, ignore_errors=True)
os.environ["ARMORY_DATA"] = _folder
os.environ["ARMORY_DEBUG"] = "0"

from marketplace.settings import *  # noqa: E402, F403
from marketplace.settings import DATABASES  # noqa: E402

if os.environ.get("ARMORY_DATABASE", "").startswith("postgres"):
    # Two runs on one server, or the rest of an interrupted one, do not meet.
    DATABASES["default"]["TEST"] = {"NAME": f"test_armory_{os.getpid()}"}
else:
    # A file, as the site has one. Django's default is memory that threads share, where one that
    # reads fails another that writes at once ("table is locked"), whatever the timeout says.
    DATABASES["default"]["TEST"] = {"NAME": os.path.join(_folder, "test.sqlite3")}

PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"
