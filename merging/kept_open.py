"""Equipped models stay open a while: a client asks for one many times, range by range.

To open one is to read the headers of all its checkpoints and to plan every tensor, which takes
longer than a small range does. A recipe, its checkpoints and so its plan never change; who may read
them is asked anew each time, before anything here is.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

from merging.engine.run import Equipment
from merging.models import EquippedModel
from merging.opening import opened_equipped

KEPT = 8  # models that stay open while nobody reads them
IDLE_SECONDS = 30.0  # then a deleted blob's room on the disk is free again


@dataclass
class _Kept:
    context: AbstractContextManager[Equipment]
    equipment: Equipment
    readers: int = 1
    since: float = field(default_factory=time.monotonic)  # when the last reader left

    def close(self) -> None:
        self.context.__exit__(None, None, None)


_kept: OrderedDict[str, _Kept] = OrderedDict()
_lock = threading.RLock()  # a reader that was forgotten leaves when it is collected, at any moment
_timer: threading.Timer | None = None


@contextmanager
def kept_equipped(row: EquippedModel) -> Iterator[Equipment]:
    """`opened_equipped`, of which several readers share one."""
    kept = _take(row)
    try:
        yield kept.equipment
    finally:
        _leave(kept)


def close_idle(idle_seconds: float = 0) -> None:
    """Close what nobody has read for so long, and the oldest of what is more than ``KEPT``."""
    now = time.monotonic()
    with _lock:
        idle = [key for key, kept in list(_kept.items()) if not kept.readers]
        old = [key for key in idle if now - _kept[key].since >= idle_seconds]
        old += [key for key in idle if key not in old][: max(len(idle) - len(old) - KEPT, 0)]
        closed = [kept for key in old if (kept := _kept.pop(key, None)) is not None]
    for kept in closed:
        kept.close()


def _take(row: EquippedModel) -> _Kept:
    kept = _join(row.hash)
    if kept is not None:
        return kept
    context = opened_equipped(row)
    opened = _Kept(context, context.__enter__())
    with _lock:
        kept = _kept.setdefault(row.hash, opened)
        if kept is not opened:  # somebody else opened it meanwhile
            kept.readers += 1
    if kept is not opened:
        opened.close()
    return kept


def _join(key: str) -> _Kept | None:
    with _lock:
        kept = _kept.get(key)
        if kept is not None:
            kept.readers += 1
            _kept.move_to_end(key)
        return kept


def _leave(kept: _Kept) -> None:
    with _lock:
        kept.readers -= 1
        kept.since = time.monotonic()
    close_idle(IDLE_SECONDS)
    _close_later()


def _close_later() -> None:
    """See to it that what is idle is closed although nobody asks for anything any more."""
    global _timer
    with _lock:
        if _timer is None and _kept:
            _timer = threading.Timer(IDLE_SECONDS, _on_time)
            _timer.daemon = True
            _timer.start()


def _on_time() -> None:
    global _timer
    with _lock:
        _timer = None
    close_idle(IDLE_SECONDS)
    _close_later()
