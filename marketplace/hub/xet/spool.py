"""Xorbs on disk: ``ARMORY_DATA/xet/<user>/<epoch>/ab/<hash>``.

A client remembers, for weeks and by the address it sent them to, which chunks a site has, and does
not send those again. So the address has an *epoch*: a client that meets a new one forgets what it
knew of the old. Whenever a xorb is lost or has to go, its user begins a new epoch, the folder with
the highest number. An epoch is named by the moment it began, so that not even an emptied disk
brings an old one back.

An epoch goes as a whole once it is retired and nobody has touched it for a while: who is in the
middle of an upload goes on with the old address. Each user has their own folder, because whoever
names a xorb gets its bytes.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from django.conf import settings
from django.core.cache import cache

from marketplace.hub.xet.hashing import chunk_hash, text_of, xorb_hash
from marketplace.hub.xet.spooled import SpooledXorb, write_xorb
from marketplace.hub.xet.xorbs import BadXorb
from vectors.announced import NotFound, TooLarge
from vectors.errors import _

IDLE = 3600.0  # seconds without a sign of life after which nobody goes on with a retired epoch
SWEEP_EVERY = 600  # seconds
RESERVE = 1 << 30  # bytes of the disk that xorbs leave free

_TEMPORARY = "tmp"
_HIGHEST = 1 << 63


@dataclass(frozen=True)
class Epoch:
    """The xorbs of one user since a moment."""

    user: int
    number: int

    @property
    def folder(self) -> Path:
        return _folder_of(self.user) / str(self.number)

    def receive(self, name: str, chunks: Iterable[bytes]) -> bool:
        """Keep a xorb under its hash; False when it was here. Raises BadXorb when it is another."""
        self.touch()
        path = self._path(name)
        if self.has(name):
            return False
        temporary = _temporary()
        try:
            hashed: list[tuple[bytes, int]] = []
            write_xorb(temporary, _hashing(chunks, hashed))
            if text_of(xorb_hash(hashed)) != name:
                raise BadXorb(_("This xorb does not have the hash in its address. Send it again."))
            path.parent.mkdir(exist_ok=True)
            os.replace(temporary, path)
        except FileNotFoundError as error:  # the epoch went while the xorb was written
            raise ended() from error
        finally:
            temporary.unlink(missing_ok=True)
        return True

    def has(self, name: str) -> bool:
        """Whether the xorb is here, and whole."""
        found = self.open(name)
        if found is not None:
            found.close()
        return found is not None

    def open(self, name: str) -> SpooledXorb | None:
        """The xorb, to be closed by the caller; None when it is not (or not whole) here."""
        try:
            return SpooledXorb(self._path(name))
        except (FileNotFoundError, ValueError):
            return None

    def touch(self) -> None:
        """A sign of life. Raises NotFound when the epoch is gone."""
        try:
            os.utime(self.folder)
        except FileNotFoundError as error:
            raise ended() from error

    def retire(self) -> None:
        """Let the user's next upload begin a new epoch, unless one has begun already."""
        if _newest(self.user) == self.number:
            _begin(self.user, after=self.number)

    def _path(self, name: str) -> Path:
        return self.folder / name[:2] / name


def ended() -> NotFound:
    return NotFound(
        _("The chunks of this upload are no longer kept. Start the same upload again: it works.")
    )


def current(user: int) -> Epoch:
    """The epoch that a new upload of ``user`` belongs to."""
    number = _newest(user)
    epoch = Epoch(user, number if number is not None else _begin(user))
    epoch.touch()
    return epoch


def find(user: int, number: int) -> Epoch:
    """The epoch with this number. Raises NotFound when it is gone."""
    if number > _HIGHEST:
        raise ended()
    epoch = Epoch(user, number)
    epoch.touch()
    return epoch


@contextmanager
def turn_of(user: int) -> Iterator[Callable[[], bool]]:
    """One shard of a user at a time: rebuilding is work that a few bytes can ask for.

    Gives a function that says whether it is our turn, which it then is to the end.
    """
    with (_folder_of(user) / "turn").open("a") as file:

        def is_ours() -> bool:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

        yield is_ours


def check_room() -> None:
    """Raise TooLarge when the disk is nearly full."""
    if shutil.disk_usage(_root()).free < RESERVE:
        raise TooLarge(
            _("The disk of this site is full. Its operator has to make room; then upload again.")
        )


# --- making room -----------------------------------------------------------------------------


def make_room(limit: int | None = None) -> int:
    """Retire the least recently used epochs until the others fit the limit; drop what is retired
    and idle. Returns the bytes dropped."""
    left = settings.ARMORY_XET_BYTES if limit is None else limit
    dropped = 0
    for touched, epoch in sorted(_epochs(), key=lambda found: found[0], reverse=True):
        size = _size_of(epoch.folder)
        left -= size
        if left < 0 and size:
            epoch.retire()
        if _newest(epoch.user) != epoch.number and touched < time.time() - IDLE:
            _drop(epoch.folder)
            dropped += size
    return dropped


def sweep() -> None:
    """Now and then: make room, and drop what killed processes left half-written."""
    if not _root().is_dir() or not cache.add("hub.xet.swept", 1, SWEEP_EVERY):
        return
    make_room()
    for path in (_root() / _TEMPORARY).glob("*"):
        if path.stat().st_mtime < time.time() - IDLE:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _epochs() -> Iterator[tuple[float, Epoch]]:
    """Every epoch, and when it was last used."""
    for folder in _root().glob("*/*"):
        if folder.name.isdigit() and folder.parent.name.isdigit():
            try:
                touched = folder.stat().st_mtime
            except FileNotFoundError:
                continue
            yield touched, Epoch(int(folder.parent.name), int(folder.name))


def _size_of(folder: Path) -> int:
    size = 0
    for path in folder.glob("*/*"):
        try:
            size += path.stat().st_size
        except FileNotFoundError:  # somebody else drops this epoch
            continue
    return size


def _drop(folder: Path) -> None:
    """Renamed first: nobody finds half an epoch."""
    doomed = _temporary()
    try:
        os.rename(folder, doomed)
    except FileNotFoundError:
        return
    shutil.rmtree(doomed)


# --- folders ---------------------------------------------------------------------------------


def _root() -> Path:
    return Path(settings.ARMORY_DATA) / "xet"


def _folder_of(user: int) -> Path:
    return _root() / str(user)


def _temporary() -> Path:
    folder = _root() / _TEMPORARY
    folder.mkdir(parents=True, exist_ok=True)
    return folder / secrets.token_hex(16)


def _newest(user: int) -> int | None:
    try:
        names = os.listdir(_folder_of(user))
    except FileNotFoundError:
        return None
    return max((int(name) for name in names if name.isdigit()), default=None)


def _begin(user: int, after: int = 0) -> int:
    number = max(time.time_ns() // 1_000_000, after + 1)
    # Of two that begin one at once both may; the later is the current one, and the other serves
    # whoever was told of it.
    (_folder_of(user) / str(number)).mkdir(parents=True, exist_ok=True)
    return number


def _hashing(chunks: Iterable[bytes], hashed: list[tuple[bytes, int]]) -> Iterator[bytes]:
    for chunk in chunks:
        hashed.append((chunk_hash(chunk), len(chunk)))
        yield chunk
