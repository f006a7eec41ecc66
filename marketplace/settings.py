"""Every setting of Armory, in one file. Without any environment variable the site runs with no
service at all: SQLite, a local folder for blobs, Celery on its filesystem transport.

A bad value stops the start with the variable's name. An empty variable counts as not set.
"""

import os
import secrets
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

import dj_database_url
from csp.constants import NONE, SELF
from django.core.exceptions import ImproperlyConfigured
from django.utils.log import CallbackFilter
from kombu import Queue

BASE_DIR = Path(__file__).resolve().parent.parent


# --- reading the environment -----------------------------------------------------------------


def env_flag(name: str, default: bool) -> bool:
    """True for 1, true, yes, on; False for 0, false, no, off."""
    text = os.environ.get(name, "").strip().lower()
    if not text:
        return default
    if text in {"1", "true", "yes", "on"}:
        return True
    if text in {"0", "false", "no", "off"}:
        return False
    raise ImproperlyConfigured(f"{name} is {text!r}: write 1 or 0.")


def env_int(name: str, default: int, low: int, high: int) -> int:
    """A whole number from low to high, both included."""
    text = os.environ.get(name, "").strip()
    if not text:
        return default
    if not text.isascii() or not text.isdigit() or not low <= int(text) <= high:
        raise ImproperlyConfigured(f"{name} is {text!r}: write a number from {low} to {high}.")
    return int(text)


def env_list(name: str, default: str, starts: tuple[str, ...] = ()) -> list[str]:
    """Words separated by commas; each begins with one of `starts` where that is given."""
    words = [word.strip() for word in (os.environ.get(name, "").strip() or default).split(",")]
    for word in words:
        if word and starts and not word.startswith(starts):
            raise ImproperlyConfigured(
                f"{name} has {word!r}: each entry begins with {' or '.join(starts)}."
            )
    return [word for word in words if word]


def env_url(name: str, default: str, schemes: tuple[str, ...]) -> str:
    """A URL whose scheme is one of `schemes`. The message never repeats the URL: it may hold a
    password."""
    text = os.environ.get(name, "").strip()
    if not text:
        return default
    try:
        parts = urlsplit(text)
        parts.port  # noqa: B018  (reading it is the check: "host:abc" raises)
    except ValueError as error:
        raise ImproperlyConfigured(f"{name} is not a URL: {error}.") from error
    if parts.scheme not in schemes or "://" not in text:
        wanted = ", ".join(f"{scheme}://" for scheme in schemes)
        raise ImproperlyConfigured(f"{name} must begin with one of {wanted}")
    return text


def folder(path: Path, name: str) -> Path:
    """The folder, made when missing; `name` is the variable to blame when it cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ImproperlyConfigured(f"{name}: cannot make the folder {path}: {error}") from error
    return path


def kept_secret(path: Path) -> str:
    """The secret in the file, made at the first start. Of several processes starting at once one
    wins: the file appears whole, by a hard link, and the others read it."""
    if not path.exists():
        draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
        draft.touch(mode=0o600)
        draft.write_text(secrets.token_urlsafe(50))
        try:
            os.link(draft, path)
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    return path.read_text().strip()


# --- where things are ------------------------------------------------------------------------

ARMORY_DATA = folder(
    Path(os.environ.get("ARMORY_DATA", "").strip() or BASE_DIR / "data").resolve(), "ARMORY_DATA"
)
ARMORY_BLOBS = Path(os.environ.get("ARMORY_BLOBS", "").strip() or ARMORY_DATA / "blobs").resolve()
ARMORY_S3_BUCKET = os.environ.get("ARMORY_S3_BUCKET", "").strip()  # set: blobs live in S3
ARMORY_S3_ENDPOINT = env_url("ARMORY_S3_ENDPOINT", "", ("http", "https"))
if ARMORY_S3_ENDPOINT and not ARMORY_S3_BUCKET:
    raise ImproperlyConfigured("ARMORY_S3_ENDPOINT is set but ARMORY_S3_BUCKET is not.")

# The demo catalogue is part of the site being ready, unless it is switched off.
ARMORY_DEMO = env_flag("ARMORY_DEMO", True)
# Results of whole-tensor merges (decompositions): a cache, safe to empty while nothing runs.
ARMORY_RESULTS = ARMORY_DATA / "results"
ARMORY_RESULTS_BYTES = env_int("ARMORY_RESULTS_GB", 20, 0, 1 << 20) * 10**9
# Builds: files of equipped models written down, the least recently used ones dropped. 0: none is.
ARMORY_BUILDS_BYTES = env_int("ARMORY_BUILDS_GB", 20, 0, 1 << 20) * 10**9
# Pieces of what clients have pushed, kept so that a similar file sends only what is new: a cache.
ARMORY_XET_BYTES = env_int("ARMORY_XET_GB", 20, 0, 1 << 20) * 10**9
ARMORY_DEMO_READY = ARMORY_DATA / "demo.ready"
# Ability checks run models in a process of their own, with these limits. At once 0: none is run.
ARMORY_CHECK_MEMORY_GB = env_int("ARMORY_CHECK_MEMORY_GB", 8, 1, 1 << 20)
ARMORY_CHECK_MINUTES = env_int("ARMORY_CHECK_MINUTES", 60, 1, 1 << 20)
ARMORY_CHECKS_AT_ONCE = env_int("ARMORY_CHECKS_AT_ONCE", 1, 0, 1000)

PORT = env_int("PORT", 8000, 1, 65535)
ARMORY_BIND = os.environ.get("ARMORY_BIND", "").strip() or "127.0.0.1"

# --- the site --------------------------------------------------------------------------------

DEBUG = env_flag("ARMORY_DEBUG", False)
SECRET_KEY = os.environ.get("ARMORY_SECRET_KEY", "").strip() or kept_secret(
    ARMORY_DATA / "secret_key"
)
ALLOWED_HOSTS = env_list("ARMORY_HOSTS", "localhost,127.0.0.1,[::1],testserver")
CSRF_TRUSTED_ORIGINS = env_list("ARMORY_ORIGINS", "", starts=("http://", "https://"))

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.humanize",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "allauth",
    "allauth.account",
    "csp",
    "django_htmx",
    "servestatic",
    "vectors",
    "merging",
    "marketplace",
]

# All of these are async-capable: one that is not would give each streamed download a thread.
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "servestatic.middleware.ServeStaticMiddleware",
    "csp.middleware.CSPMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "allauth.account.middleware.AccountMiddleware",
    "marketplace.addresses.no_nul",
]

ROOT_URLCONF = "marketplace.urls"
ASGI_APPLICATION = "marketplace.asgi.application"
WSGI_APPLICATION = "marketplace.wsgi.application"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.template.context_processors.i18n",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

# --- database and cache ----------------------------------------------------------------------


def database() -> dict[str, Any]:
    """The default database: SQLite in the data folder, or what ARMORY_DATABASE names."""
    url = env_url("ARMORY_DATABASE", "", ("sqlite", "postgres", "postgresql"))
    config: dict[str, Any] = {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": str(ARMORY_DATA / "armory.sqlite3"),
    }
    if url:
        # conn_max_age=0: under ASGI a kept connection belongs to a thread that may never return.
        config = dict(dj_database_url.parse(url, conn_max_age=0))
    if config["ENGINE"] == "django.db.backends.sqlite3":
        # IMMEDIATE takes the write lock at BEGIN, so that writers wait for each other; a deferred
        # transaction that reads and then writes fails at once, whatever the timeout. The price:
        # every atomic() takes that lock, so no ATOMIC_REQUESTS and no slow work inside atomic().
        config["OPTIONS"] = {
            "transaction_mode": "IMMEDIATE",
            "timeout": 20,
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
        }
    return config


DATABASES = {"default": database()}

_cache = env_url("ARMORY_CACHE", "", ("redis", "rediss"))
# The local cache is per process: with several web processes the rate limits of the sign-in
# pages and of the hub need the shared one.
CACHES: dict[str, dict[str, Any]] = {
    "default": {
        "BACKEND": "django.core.cache.backends.locmem.LocMemCache",
        "OPTIONS": {"MAX_ENTRIES": 20_000},
    }
    if not _cache
    else {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": _cache}
}

# --- accounts --------------------------------------------------------------------------------

AUTHENTICATION_BACKENDS = [
    "django.contrib.auth.backends.ModelBackend",
    "allauth.account.auth_backends.AuthenticationBackend",
]
PASSWORD_HASHERS = [
    "django.contrib.auth.hashers.Argon2PasswordHasher",
    "django.contrib.auth.hashers.PBKDF2PasswordHasher",
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]
LOGIN_URL = "account_login"
LOGIN_REDIRECT_URL = "home"
ACCOUNT_LOGOUT_REDIRECT_URL = "home"
ACCOUNT_LOGIN_METHODS = {"username", "email"}
ACCOUNT_SIGNUP_FIELDS = ["username*", "email*", "password1*", "password2*"]
ACCOUNT_EMAIL_VERIFICATION = "optional"
ACCOUNT_USERNAME_VALIDATORS = "marketplace.accounts.names.username_validators"
ACCOUNT_EMAIL_SUBJECT_PREFIX = "[Armory] "

# Mails are files in the data folder until ARMORY_EMAIL_URL names a server:
# smtp://host:25 (plain), smtp+tls://user:password@host:587 (STARTTLS), smtps://…@host:465 (TLS).
DEFAULT_FROM_EMAIL = os.environ.get("ARMORY_EMAIL_FROM", "").strip() or "armory@localhost"
_mail = urlsplit(env_url("ARMORY_EMAIL_URL", "", ("smtp", "smtp+tls", "smtps")))
EMAIL_BACKEND = "django.core.mail.backends.filebased.EmailBackend"
EMAIL_FILE_PATH = str(ARMORY_DATA / "mail")
if _mail.scheme:
    EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    EMAIL_HOST = _mail.hostname or "localhost"
    EMAIL_PORT = _mail.port or {"smtp": 25, "smtp+tls": 587, "smtps": 465}[_mail.scheme]
    EMAIL_HOST_USER = unquote(_mail.username or "")
    EMAIL_HOST_PASSWORD = unquote(_mail.password or "")
    EMAIL_USE_TLS = _mail.scheme == "smtp+tls"
    EMAIL_USE_SSL = _mail.scheme == "smtps"
    EMAIL_TIMEOUT = 10

# --- security --------------------------------------------------------------------------------

SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
# Scripts take the token from the page (a form field or hx-headers), never from the cookie.
CSRF_COOKIE_HTTPONLY = True
CSRF_COOKIE_SAMESITE = "Lax"
LANGUAGE_COOKIE_HTTPONLY = True
LANGUAGE_COOKIE_SAMESITE = "Lax"

# Behind a proxy that ends TLS. Whether a request was https is taken from X-Forwarded-Proto by
# uvicorn, and only from the addresses in its own FORWARDED_ALLOW_IPS (default: this machine).
if env_flag("ARMORY_HTTPS", False):
    SECURE_SSL_REDIRECT = True
    SECURE_REDIRECT_EXEMPT = [r"^healthz$"]
    SECURE_HSTS_SECONDS = 365 * 24 * 3600
    SESSION_COOKIE_SECURE = True
    CSRF_COOKIE_SECURE = True
    LANGUAGE_COOKIE_SECURE = True


def s3_origins() -> list[str]:
    """Where a browser sends and fetches blobs directly, by presigned URLs."""
    if not ARMORY_S3_BUCKET:
        return []
    if not ARMORY_S3_ENDPOINT:
        return ["https://*.amazonaws.com"]
    parts: SplitResult = urlsplit(ARMORY_S3_ENDPOINT)
    return [f"{parts.scheme}://{parts.netloc}"]


CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [SELF],
        "img-src": [SELF, "data:"],
        "connect-src": [SELF, *s3_origins()],
        "object-src": [NONE],
        "base-uri": [NONE],
        "form-action": [SELF],
        "frame-ancestors": [NONE],
    }
}

# Requests that one account, or one address without an account, may send to the hub protocol in a
# window of time: questions (api), and files. 0 is no limit.
ARMORY_RATE_API = env_int("ARMORY_RATE_API", 3000, 0, 10**9)
ARMORY_RATE_RESOLVE = env_int("ARMORY_RATE_RESOLVE", 15_000, 0, 10**9)
ARMORY_RATE_SECONDS = env_int("ARMORY_RATE_SECONDS", 300, 1, 86_400)

# --- languages and time ----------------------------------------------------------------------

LANGUAGE_CODE = "en"
# A bare "zh" goes to the first of the two.
LANGUAGES = [("en", "English"), ("zh-hant", "繁體中文"), ("zh-hans", "简体中文")]
LOCALE_PATHS = [BASE_DIR / "locale"]
USE_I18N = True
USE_TZ = True
TIME_ZONE = "UTC"

# --- static files and uploads ----------------------------------------------------------------

STATIC_URL = "/static/"
STATIC_ROOT = ARMORY_DATA / "static"
STATICFILES_DIRS = [path for path in [BASE_DIR / "static"] if path.is_dir()]
# Files are served from where they are written: no collectstatic, in production neither. They are
# looked up at start; with ARMORY_DEBUG=1 at each request.
SERVESTATIC_USE_FINDERS = True
SERVESTATIC_AUTOREFRESH = DEBUG
SERVESTATIC_ALLOW_ALL_ORIGINS = False

DATA_UPLOAD_MAX_NUMBER_FILES = 400  # of the upload form; vectors.announced has the same limit
# A request's body is spooled here: beside the blobs, so that taking it over is a rename.
FILE_UPLOAD_TEMP_DIR = str(folder(ARMORY_DATA / "tmp", "ARMORY_DATA"))
# The longest body: room for one part of an upload. The form for browsers without JavaScript sends
# all files in one.
ARMORY_BODY_BYTES = 80 << 20
ARMORY_FORM_BYTES = env_int("ARMORY_FORM_MB", 2048, 1, 1 << 20) << 20

# --- Celery: it rings the bell, the database row is the truth of a job -------------------------

CELERY_BROKER_URL = env_url(
    "ARMORY_BROKER", "filesystem://localhost", ("filesystem", "redis", "rediss", "amqp", "amqps")
)
if CELERY_BROKER_URL.startswith("filesystem"):
    _queue = ARMORY_DATA / "queue"
    CELERY_BROKER_TRANSPORT = "marketplace.filequeue:Transport"
    CELERY_BROKER_TRANSPORT_OPTIONS: dict[str, Any] = {
        "data_folder_in": str(folder(_queue / "messages", "ARMORY_DATA")),
        "data_folder_out": str(_queue / "messages"),
        "control_folder": str(folder(_queue / "control", "ARMORY_DATA")),
        "processed_folder": str(folder(_queue / "taken", "ARMORY_DATA")),
        "store_processed": False,
        "polling_interval": 0.25,
    }
elif CELERY_BROKER_URL.startswith("redis"):
    CELERY_BROKER_TRANSPORT_OPTIONS = {
        # A message held by a worker that died returns after the timeout; by default Redis is
        # searched for those only every 100 s. A second ring of a running job does nothing.
        "visibility_timeout": 3600,
        "unacked_restore_interval": 2,
        "unacked_restore_throttle": 1,
    }
# How long a job stays with a worker that gives no sign of life. Each sign renews it, so that it is
# no limit on how long a job may take.
ARMORY_LEASE_SECONDS = env_int("ARMORY_LEASE_SECONDS", 15, 1, 3600)
CELERY_TASK_DEFAULT_QUEUE = "armory"
# A worker without -Q serves all; `serve` gives checks and builds, which take minutes, each its own.
CELERY_TASK_QUEUES = [
    Queue(name, routing_key=name) for name in ("armory", "armory.checks", "armory.builds")
]
CELERY_TASK_SERIALIZER = "json"
CELERY_ACCEPT_CONTENT = ["json"]
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_ACKS_LATE = False
CELERY_TASK_TRACK_STARTED = False
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_WORKER_ENABLE_REMOTE_CONTROL = False  # cancelling is a column of the job's row
CELERY_WORKER_MAX_TASKS_PER_CHILD = 50  # gives memory back to the system now and then
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True

# --- logs ------------------------------------------------------------------------------------

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "line": {"format": "{asctime} {levelname} {name}: {message}", "style": "{"},
    },
    "filters": {
        # "Not ready yet" is an answer of /healthz, asked several times a second at the start.
        "not_503": {"()": CallbackFilter, "callback": lambda r: getattr(r, "status_code", 0) != 503}
    },
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["stderr"], "level": "WARNING"},
    "loggers": {
        # Django's own handlers print only under DEBUG or send mails.
        "django": {"handlers": ["stderr"], "level": "WARNING", "propagate": False},
        "django.request": {"level": "ERROR", "filters": ["not_503"]},  # nor each 404
        "vectors": {"level": "INFO"},
        "merging": {"level": "INFO"},
        "marketplace": {"level": "INFO"},
    },
}
