"""Celery's filesystem transport, made safe against half-written files.

kombu's own transport lets a message's file appear before its content, and a worker that reads it
then dies of the JSON error; a taken message passes through the system's temporary folder, which
may be another disk; and a queue's table is rewritten in place. Here every file appears and
leaves by a rename inside the queue's folder, and an unreadable message is dropped with a line in
the log: the job's row is the truth, the sweep rings again.
"""

import logging
import os
import time
import uuid
from pathlib import Path
from queue import Empty
from typing import Any

from kombu.transport import filesystem
from kombu.utils.json import dumps, loads

log = logging.getLogger(__name__)

LONGEST_WAIT = 0.5  # seconds


def write_whole(path: Path, content: str, draft_folder: Path) -> None:
    """Write the file so that a reader sees all of it or nothing."""
    draft = draft_folder / f"{uuid.uuid4().hex}.draft"
    draft.write_text(content)
    draft.replace(path)


class Channel(filesystem.Channel):
    def _put(self, queue: str, payload: Any, **kwargs: Any) -> None:  # type: ignore[override]
        # The wall clock keeps the order over a restart of the machine; a monotonic one does not.
        name = f"{time.time_ns()}_{uuid.uuid4().hex}.{queue}.msg"
        write_whole(Path(self.data_folder_out) / name, dumps(payload), Path(self.processed_folder))

    def _get(self, queue: str, timeout: float | None = None) -> dict[str, Any]:
        for name in sorted(os.listdir(self.data_folder_in)):
            if name.partition(".")[2] != f"{queue}.msg":
                continue
            taken = Path(self.processed_folder) / name
            try:
                os.rename(os.path.join(self.data_folder_in, name), taken)
            except FileNotFoundError:
                continue  # another worker took it
            content = taken.read_text()
            taken.unlink()
            try:
                message: dict[str, Any] = loads(content)
            except ValueError:
                log.warning("dropped the unreadable message %s of queue %s", name, queue)
                continue
            return message
        raise Empty

    def get_table(self, exchange: str) -> list[Any]:
        try:
            rows = loads(self._exchange_file(exchange).read_text())
        except (FileNotFoundError, ValueError):
            return []
        return [filesystem.exchange_queue_t(*row) for row in rows]

    def _queue_bind(self, exchange: str, routing_key: str, pattern: str, queue: str) -> None:
        row = filesystem.exchange_queue_t(routing_key or "", pattern or "", queue or "")
        rows = self.get_table(exchange)
        if row not in rows:
            write_whole(
                self._exchange_file(exchange), dumps([row, *rows]), Path(self.processed_folder)
            )


class Transport(filesystem.Transport):
    Channel = Channel

    def drain_events(self, connection: Any, timeout: float | None = None, **kwargs: Any) -> None:
        # A worker notices that it is to stop when this returns; Celery would wait 2 s each time.
        super().drain_events(connection, timeout=min(timeout or LONGEST_WAIT, LONGEST_WAIT))
