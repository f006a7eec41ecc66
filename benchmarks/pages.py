"""The pages that look at all vectors of a foundation, over HTTP: how long the site takes for each,
cold and warm, and how many questions it asks its database in shops of several sizes.

The site is the real one, `manage.py serve` with one web process; one client asks for one page at a
time. Beside the time a client waits stands the processor time of the web server, which does not
know what else the machine does.
"""

from __future__ import annotations

import http.client
import os
import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from . import crowd, serving
from .serving import web_server

TARGET = 0.3  # seconds, for a page that is warm
ROUNDS = 15
_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Asked:
    """A page; ``{n}`` in its address becomes another number each round."""

    title: str
    address: str


VECTOR = Asked("vector, with what goes well with it and what contradicts it", "/ann/v0")
ANOTHER = Asked("the same, of another vector each time", "/ann/v{n}")
LOADOUT = Asked(
    "loadout of two, with forecast and inventory",
    f"/loadout?on={crowd.FOUNDATION}&v=ann/v0&c=1&v=ann/v1&c=0.5",
)
SLIDER = Asked(
    "what a moved slider asks for",
    f"/loadout/forecast?on={crowd.FOUNDATION}&v=ann/v0&c=1&v=ann/v1&c=0.5",
)
PAGES = (
    VECTOR,
    ANOTHER,
    LOADOUT,
    SLIDER,
    Asked("loadout, its inventory searched", f"{LOADOUT.address}&q=law"),
    Asked("catalogue", "/vectors"),
    Asked("catalogue, searched and narrowed", "/vectors?q=law&task=translation&sort=equipped"),
)

Counted = Mapping[str, int]  # queries by the title of the page


def counted(shop: crowd.Shop) -> Counted:
    """How many queries each page makes of this shop, for somebody who is signed in."""
    from django.db import connection
    from django.test import Client
    from django.test.utils import CaptureQueriesContext

    client = Client()
    client.force_login(shop.buyer, "django.contrib.auth.backends.ModelBackend")
    found = {}
    for page in PAGES:
        address = page.address.format(n=1)
        client.get(address)  # the rows the file lacks
        with CaptureQueriesContext(connection) as queries:
            assert client.get(address).status_code == 200, address
        found[page.title] = len(queries)
    return found


def report(shop: crowd.Shop, counts: Mapping[int, Counted]) -> str:
    """The table, as Markdown."""
    sizes = " / ".join(f"{many:,}" for many in counts)
    head = "page | cold ms | warm ms | from – to | server CPU ms | signed in ms | queries with"
    lines = [
        f"## Pages of a shop with {shop.count - 1:,} other vectors of the foundation",
        "",
        f"| {head} {sizes} |",
        "| ---- | ------: | ------: | --------: | ------------: | -----------: | -----: |",
    ]
    missed, before = [], os.getloadavg()[0]
    for page in PAGES:
        shop.forget_rows()
        with served(shop.folder) as site:
            cold = site.ask(page.address.format(n=1), {})
            warm, cpu = site.rounds(page, {})
            signed, _cpu = site.rounds(page, crowd.cookie_of(shop.buyer))
        if statistics.median(warm) > TARGET:
            missed.append(page.title)
        queries = " / ".join(str(each[page.title]) for each in counts.values())
        lines.append(
            f"| {page.title} | {cold * 1e3:.0f} | {statistics.median(warm) * 1e3:.0f} "
            f"| {min(warm) * 1e3:.0f} – {max(warm) * 1e3:.0f} | {cpu * 1e3:.0f} "
            f"| {statistics.median(signed) * 1e3:.0f} | {queries} |"
        )
    verdict = f"missed by {', '.join(missed)}" if missed else "met by all"
    load = f"Load {before:.1f} before, {os.getloadavg()[0]:.1f} after."
    return "\n".join([*lines, "", f"Target: below {TARGET * 1e3:.0f} ms warm: {verdict}. {load}"])


class Site:
    """A running site, and the process that answers."""

    def __init__(self, folder: Path, port: int) -> None:
        self._port, self._pid = port, web_server(folder)

    def rounds(self, page: Asked, headers: Mapping[str, str]) -> tuple[list[float], float]:
        """Seconds of each round after two that do not count, and the server's CPU of one."""
        for number in range(2):
            self.ask(page.address.format(n=number + 1), headers)
        before, walls = self._cpu(), []
        for number in range(ROUNDS):
            # Far apart, so that no two have their neighbours in common.
            walls.append(self.ask(page.address.format(n=number * 61 + 7), headers))
        return walls, (self._cpu() - before) / ROUNDS

    def ask(self, address: str, headers: Mapping[str, str]) -> float:
        """Seconds until the whole page is there."""
        link = http.client.HTTPConnection("127.0.0.1", self._port, timeout=120)
        try:
            began = time.perf_counter()
            link.request("GET", address, headers=dict(headers))
            answer = link.getresponse()
            answer.read()
            assert answer.status == 200, (address, answer.status)
            return time.perf_counter() - began
        finally:
            link.close()

    def _cpu(self) -> float:
        fields = Path(f"/proc/{self._pid}/stat").read_text().rpartition(") ")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICK


@contextmanager
def served(folder: Path) -> Iterator[Site]:
    """`manage.py serve` on the shop in ``folder``."""
    with serving.served(folder, {**os.environ, **crowd.settings_of(folder)}) as port:
        yield Site(folder, port)
