"""The site's settings with the addresses of the transport's tests."""

from marketplace.settings import *  # noqa: F403

ROOT_URLCONF = "tests.vectors.urls"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
# Tables are made from the models: the tests of the transport do not depend on migrations.
MIGRATION_MODULES = dict.fromkeys(
    ("vectors", "merging", "marketplace", "account", "auth", "contenttypes", "sessions", "admin")
)
