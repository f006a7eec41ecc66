"""`manage.py serve`: the whole shop from one command, as `make run` starts it.

It brings the database up to date, starts the web server, two Celery workers and the making of the
demo catalogue, says when everything is ready, starts again what dies, and takes everything down
with it when it is told to stop.
"""

import ctypes
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import Any

from django.conf import settings
from django.core.management import BaseCommand, CommandError, CommandParser, call_command
from django.db import connections
from django.db.migrations.executor import MigrationExecutor

TICK = 0.2  # seconds between two looks at the children
GRACE = 10.0  # seconds a child has to stop before it is killed
LONGEST_WAIT = 30.0  # seconds; the back-off doubles from 1 up to here
STEADY = 60.0  # seconds a child has to live for its back-off to begin anew
HOPELESS = 5  # deaths in a row of a child before the site was ever ready

PR_SET_PDEATHSIG = 1


@dataclass
class Child:
    """One child process, the leader of a process group of its own."""

    label: str
    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    once: bool = False  # a job that ends well is done, not dead
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    deaths: int = 0  # in a row
    again_at: float = 0.0
    done: bool = False

    def start(self) -> None:
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            self.command,
            cwd=settings.BASE_DIR,
            env=os.environ | self.environment,
            stdin=subprocess.DEVNULL,
            # A group of its own: Ctrl-C in the terminal reaches the supervisor alone, which
            # stops the children in order; and nothing a child started outlives it.
            process_group=0,
            preexec_fn=_die_with_parent,
        )

    def signal_group(self, number: signal.Signals) -> None:
        if self.process is not None:
            try:
                os.killpg(self.process.pid, number)
            except ProcessLookupError:
                pass  # nobody of the group is left


def _load_libc() -> Any:
    try:
        return ctypes.CDLL(None, use_errno=True)
    except OSError:
        return None


_libc = _load_libc()  # before the first fork: a child between fork and exec must not load files


def _die_with_parent() -> None:
    """In the child, on Linux: be told to stop when the supervisor is killed outright."""
    if sys.platform == "linux" and _libc is not None:
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def web(host: str, port: int) -> Child:
    command = f"-m uvicorn marketplace.asgi:application --host {host} --port {port}"
    options = (
        "--loop uvloop --http httptools --lifespan off --no-access-log --no-server-header "
        "--log-level warning --timeout-graceful-shutdown 3"
    )
    return Child("web server", [sys.executable, *command.split(), *options.split()])


def worker() -> Child:
    processes = max(1, min(2, (os.cpu_count() or 1) // 2))  # the web server merges as well
    return celery("background worker", f"-n jobs@%h -Q armory -P prefork -c {processes}")


def checker() -> Child:
    """The worker of the ability checks: it mostly waits for the program that runs the models."""
    return celery("worker for checks", "-n checks@%h -Q armory.checks -P solo")


def builder() -> Child:
    """The worker of the builds: one at a time, because each computes with every core."""
    return celery("worker for builds", "-n builds@%h -Q armory.builds -P solo")


def celery(label: str, options: str) -> Child:
    command = f"-m celery -q -A marketplace worker {options} -l WARNING"
    quiet = "--without-gossip --without-mingle --without-heartbeat"
    return Child(label, [sys.executable, *command.split(), *quiet.split()])


def seed() -> Child:
    command = [sys.executable, str(settings.BASE_DIR / "manage.py"), "seed_demo"]
    return Child("demo catalogue", command, once=True)


def check_port(host: str, port: int) -> None:
    """Raise CommandError in one sentence when nobody can listen there."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise CommandError(
                f"Port {port} of {host} cannot be used ({reason}): "
                f"stop what listens there or choose another port, for example PORT={port + 1}."
            ) from error


def health(host: str, port: int) -> dict[str, Any]:
    """What /healthz says; {"ok": False} with a reason when it does not answer."""
    address = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    # A host the site accepts, or the question itself would be refused.
    name = next((h for h in settings.ALLOWED_HOSTS if h[0] not in "*."), "localhost")
    link = http.client.HTTPConnection(address, port, timeout=3)
    try:
        link.request("GET", "/healthz", headers={"Host": name})
        answer = link.getresponse()
        if answer.status not in {200, 503}:
            return {"ok": False, "site": f"the site answers with status {answer.status}"}
        report: dict[str, Any] = json.loads(answer.read())
        return report
    except (OSError, http.client.HTTPException, ValueError):
        return {"ok": False, "site": "the web server does not answer yet"}
    finally:
        link.close()


class Command(BaseCommand):
    help = "Runs the site, a background worker and the demo catalogue until Ctrl-C."
    requires_system_checks = ()  # `migrate` and each child check for themselves

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--host", default=settings.ARMORY_BIND, help="default: ARMORY_BIND")
        parser.add_argument("--port", type=int, default=settings.PORT, help="default: PORT")

    def say(self, text: str) -> None:
        self.stdout.write(text)
        self.stdout.flush()

    def handle(self, *, host: str, port: int, **_: Any) -> None:
        self.stopping = 0
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self.on_signal)
        check_port(host, port)
        self.migrate()
        children = [web(host, port), worker(), checker()]
        children += [builder()] if settings.ARMORY_BUILDS_BYTES else []
        children += [seed()] if settings.ARMORY_DEMO else []
        try:
            for child in children:
                if not self.stopping:
                    child.start()
            self.watch(children, host, port)
        finally:
            self.stop(children)

    def on_signal(self, *_: Any) -> None:
        self.stopping += 1

    def migrate(self) -> None:
        executor = MigrationExecutor(connections["default"])
        if executor.migration_plan(executor.loader.graph.leaf_nodes()):
            self.say("Bringing the database up to date.")
            call_command("migrate", interactive=False, verbosity=0)
        connections.close_all()

    def watch(self, children: list[Child], host: str, port: int) -> None:
        """Until a signal: start again what died, and say once when the site is ready."""
        ready = False
        shown = "localhost" if host in {"127.0.0.1", "0.0.0.0", "::1", "::"} else host
        began = ask_at = time.monotonic()
        said = ""
        while not self.stopping:
            for child in children:
                self.look_after(child, ready)
            now = time.monotonic()
            if not ready and now >= ask_at:
                report = health(host, port)
                # A changed demo catalogue is announced when it is in, not while the old one is.
                ready = report.pop("ok") is True and all(c.done for c in children if c.once)
                # A site that is broken logs an error each time it is asked.
                ask_at = now + (5.0 if "status" in report["site"] else 2 * TICK)
                missing = "; ".join(str(s) for s in report.values() if " " in str(s))
                if ready:
                    self.say(f"Armory is ready: http://{shown}:{port}")
                elif missing and missing != said and now - began > 10:
                    self.say(f"Not ready yet: {missing}.")
                    said = missing
            time.sleep(TICK)

    def look_after(self, child: Child, ready: bool) -> None:
        """Notice that a child has ended; start it again when its waiting time is over."""
        if child.done:
            return
        if child.process is None:
            if time.monotonic() >= child.again_at:
                child.start()
            return
        code = child.process.poll()
        if code is None:
            return
        if child.once and code == 0:
            child.done = True
            return
        child.signal_group(signal.SIGKILL)  # what it started must not live on beside its heir
        child.process = None
        if time.monotonic() - child.started > STEADY:
            child.deaths = 0
        child.deaths += 1
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
        if child.once and child.deaths >= 3:
            child.done = True
            self.say(f"The {child.label} ended with {how} again; the site runs on without it.")
            return
        if not ready and child.deaths >= HOPELESS:
            raise CommandError(
                f"The {child.label} ended with {how}, {child.deaths} times in a row: giving up. "
                "Its messages are above."
            )
        wait = min(LONGEST_WAIT, 2.0 ** (child.deaths - 1))
        child.again_at = time.monotonic() + wait
        self.say(f"The {child.label} ended with {how}; it starts again in {wait:g} s.")

    def stop(self, children: list[Child]) -> None:
        """Ask every child to stop, wait, then kill. A second signal ends the waiting."""
        signals = self.stopping
        running = [child for child in children if child.process is not None]
        for child in running:
            if child.process is not None and child.process.poll() is None:
                # The leader only: Celery's processes finish their job when they are not hit.
                child.process.send_signal(signal.SIGTERM)
        limit = time.monotonic() + GRACE
        while time.monotonic() < limit and self.stopping <= signals:
            if all(child.process is None or child.process.poll() is not None for child in running):
                break
            time.sleep(0.05)
        for child in running:
            child.signal_group(signal.SIGKILL)
            if child.process is not None:
                child.process.wait()
        self.say("Armory has stopped.")
