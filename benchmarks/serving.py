"""``python -m benchmarks.serving``: downloads from the running site beside nginx.

The site serves a stored file, and the same-sized file of an equipped model that it computes while
it leaves; nginx serves the very bytes as static files. One client (curl, into nothing) takes turns
with the three, so that whatever else the machine does falls on all of them. Then twenty slow
clients read the computed file at once, and the site's memory is watched.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .__main__ import CACHE
from .rounds import ROOT
from .sizes import SIZES

SLOW_CLIENTS = 20
SLOW_RATE = "4M"  # bytes a second that a slow client takes
NGINX = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 64; }}
http {{
    access_log off; sendfile on; tcp_nopush on;
    client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c;
    uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
    server {{ listen 127.0.0.1:{port}; root {folder}/files; }}
}}
"""
STOCK = """
from django.contrib.auth import get_user_model
from django.core.management import call_command
get_user_model().objects.create_user("bench", "bench@example.org", "bench")
call_command("add_foundation", {base!r}, id="lab/base")
for name in ("dense", "sparse", "lora"):
    call_command("add_vector", {root!r} + "/" + name, id="bench/" + name,
                 foundation="lab/base", owner="bench")
from merging.services import equip_expression
from django.contrib.auth.models import AnonymousUser
for text in ("0.5*bench/dense", "bench/lora", "0.5*bench/dense + 0.5*bench/sparse"):
    print(equip_expression(text, on="lab/base", user=AnonymousUser()).repo_id)
"""


def main() -> None:
    """Measure and print a table of ratios."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__)
    parser.add_argument("--size", choices=list(SIZES), default="0.25")
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    if shutil.which("nginx") is None or shutil.which("curl") is None:
        sys.exit("This benchmark needs nginx and curl: apt-get install nginx-light curl")
    subprocess.run(
        [sys.executable, "-m", "benchmarks.checkpoints", options.size, CACHE / options.size],
        cwd=ROOT,
        check=True,
    )
    with tempfile.TemporaryDirectory(prefix="armory-serving-") as name:
        print(measured(Path(name), CACHE / options.size, options.runs))


def measured(folder: Path, models: Path, runs: int) -> str:
    """The report, as Markdown."""
    data = folder / "data"
    data.mkdir()
    with site(data) as address:
        recipes = stock(data, models)
        file = "model-00001-of-00003.safetensors"
        targets = {
            "stored file": f"{address}/lab/base/resolve/main/{file}",
            "equipped: 1 full × 0.5": f"{address}/{recipes[0]}/resolve/main/{file}",
            "equipped: 1 LoRA": f"{address}/{recipes[1]}/resolve/main/{file}",
            "equipped: 2 full × 0.5": f"{address}/{recipes[2]}/resolve/main/{file}",
        }
        with nginx(folder, models / "base" / file) as static:
            speeds = take_turns({"nginx, static": static, **targets}, runs)
        memory = slow_clients(data, targets["equipped: 1 full × 0.5"])
    return table(speeds, memory, (models / "base" / file).stat().st_size)


def take_turns(targets: dict[str, str], runs: int) -> dict[str, list[float]]:
    """Bytes a second of each address, ``runs`` times after one that does not count."""
    speeds: dict[str, list[float]] = {name: [] for name in targets}
    for turn in range(runs + 1):
        for name, address in targets.items():
            speed = download(address)
            if turn:
                speeds[name].append(speed)
    return speeds


def download(address: str) -> float:
    """Bytes a second at which curl reads the address."""
    done = subprocess.run(
        ["curl", "-sfL", "-o", os.devnull, "-w", "%{speed_download}", address],
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


def slow_clients(data: Path, address: str) -> tuple[float, float]:
    """Megabytes the web server holds before and, at most, while the slow clients read."""
    pid = web_server(data)
    before = resident(pid)
    clients = [
        subprocess.Popen(["curl", "-sf", "--limit-rate", SLOW_RATE, "-o", os.devnull, address])
        for _ in range(SLOW_CLIENTS)
    ]
    try:
        most, end = before, time.monotonic() + 15
        while time.monotonic() < end and any(client.poll() is None for client in clients):
            most = max(most, resident(pid))
            time.sleep(0.05)
    finally:
        for client in clients:
            client.kill()
            client.wait()
    return before / 1e6, most / 1e6


def table(speeds: dict[str, list[float]], memory: tuple[float, float], size: int) -> str:
    """Medians, and what they are of nginx's."""
    static = statistics.median(speeds["nginx, static"])
    stored = statistics.median(speeds["stored file"])
    lines = [
        f"## Downloads of one file of {size / 1e6:.0f} MB on this machine's loopback",
        "",
        "| served | MB/s | from – to | × nginx | × stored |",
        "| ------ | ---: | --------: | ------: | -------: |",
    ]
    for name, found in speeds.items():
        middle = statistics.median(found)
        lines.append(
            f"| {name} | {middle / 1e6:.0f} | {min(found) / 1e6:.0f} – {max(found) / 1e6:.0f} "
            f"| {middle / static:.2f} | {middle / stored:.2f} |"
        )
    before, most = memory
    slow = (
        f"{SLOW_CLIENTS} clients at {SLOW_RATE}B/s each, all on the computed file: the web server "
        f"held {before:.0f} MB before and at most {most:.0f} MB meanwhile."
    )
    return "\n".join([*lines, "", slow])


# --- the two servers -------------------------------------------------------------------------


@contextmanager
def site(data: Path) -> Iterator[str]:
    """`manage.py serve` with an empty catalogue."""
    with served(data, environment(data)) as port:
        yield f"http://127.0.0.1:{port}"


@contextmanager
def served(folder: Path, environment: dict[str, str]) -> Iterator[int]:
    """The port of `manage.py serve`, which writes its log to ``folder``."""
    port = free_port()
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "manage.py", "serve"],
            cwd=ROOT,
            env={**environment, "PORT": str(port)},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            wait_for(f"http://127.0.0.1:{port}/healthz")
            yield port
        finally:
            server.send_signal(signal.SIGINT)
            server.wait()


@contextmanager
def nginx(folder: Path, file: Path) -> Iterator[str]:
    """nginx with one file, a copy of ``file``."""
    files, port = folder / "files", free_port()
    files.mkdir()
    shutil.copy(file, files / file.name)
    for path in (folder, files):
        path.chmod(0o755)  # nginx reads as another user
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, port=port))
    server = subprocess.Popen(["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")])
    address = f"http://127.0.0.1:{port}/{file.name}"
    try:
        wait_for(address)
        yield address
    finally:
        server.terminate()
        server.wait()


def stock(data: Path, models: Path) -> list[str]:
    """Put the checkpoints on the shelves; the ids of the recipes."""
    done = subprocess.run(
        [
            *(sys.executable, "manage.py", "shell", "-v0", "-c"),
            STOCK.format(base=str(models / "base"), root=str(models)),
        ],
        cwd=ROOT,
        env=environment(data),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(done.stderr)
    return [line for line in done.stdout.splitlines() if line.startswith("equipped/")]


def environment(data: Path) -> dict[str, str]:
    """This process's environment with a data folder of its own and no demo."""
    return {**os.environ, "ARMORY_DATA": str(data), "ARMORY_DEMO": "0"}


def web_server(data: Path) -> int:
    """Process id of the site's uvicorn."""
    for folder in Path("/proc").iterdir():
        try:
            ours = str(data).encode() in (folder / "environ").read_bytes()
            if ours and b"uvicorn" in (folder / "cmdline").read_bytes():
                return int(folder.name)
        except (OSError, ValueError):
            continue
    raise RuntimeError("the web server is not there")


def resident(pid: int) -> int:
    """Bytes of memory the process holds."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def wait_for(address: str, limit: float = 120) -> None:
    """Wait until the address answers."""
    end = time.monotonic() + limit
    while True:
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main()
