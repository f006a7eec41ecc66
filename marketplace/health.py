"""`/healthz`: is the whole shop open? Asked by the supervisor, by probes and by people."""

from django.conf import settings
from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor
from django.http import HttpRequest, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

READY = "ready"

# Migrations are read from disk to be compared: once applied, they stay so for this process.
_migrated = False


def site_state() -> str:
    """READY, or what the database lacks."""
    global _migrated
    try:
        if not _migrated:
            executor = MigrationExecutor(connection)
            if executor.migration_plan(executor.loader.graph.leaf_nodes()):
                return "migrations are not applied: run `python manage.py migrate`"
            _migrated = True
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except DatabaseError:
        return "the database does not answer"
    return READY


def worker_state() -> str:
    """READY, or that no worker has beaten lately."""
    from vectors import leases

    return READY if leases.worker_alive() else "no background worker has reported for 30 s"


def catalogue_state() -> str:
    """READY, or that the demo catalogue is not there yet."""
    if not settings.ARMORY_DEMO:
        return "switched off"
    from vectors.models import Vector

    if settings.ARMORY_DEMO_READY.exists() and Vector.objects.published().exists():
        return READY
    return "the demo catalogue is still being made"


@never_cache
@require_safe
def healthz(request: HttpRequest) -> JsonResponse:
    """200 when everything is ready, else 503; the JSON says which part is missing and why."""
    parts = {"site": site_state(), "worker": "unknown", "catalogue": "unknown"}
    if parts["site"] == READY:
        try:
            parts |= {"worker": worker_state(), "catalogue": catalogue_state()}
        except DatabaseError:
            parts["site"] = "the database does not answer"
    ok = all(state in {READY, "switched off"} for state in parts.values())
    return JsonResponse({"ok": ok, **parts}, status=200 if ok else 503)
