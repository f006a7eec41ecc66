"""A line to the site that can be cut, and that counts what passes: a small TCP proxy."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

PIECE = 1 << 16


@dataclass
class Line:
    """``cut_after`` bytes of answers of at least that length the line breaks, ``cuts`` times."""

    address: str
    cut_after: int = 0
    cuts: int = 0
    sent: int = 0  # by clients
    received: int = 0
    requests: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def may_cut(self) -> bool:
        with self.lock:
            if self.cuts <= 0:
                return False
            self.cuts -= 1
            return True


@contextmanager
def line_to(port: int) -> Iterator[Line]:
    """A line on a port of its own to the site's ``port``."""
    server = socket.create_server(("127.0.0.1", 0))
    line = Line(f"http://127.0.0.1:{server.getsockname()[1]}")

    def accept() -> None:
        while True:
            try:
                near, _peer = server.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", port))
            threading.Thread(target=_up, args=(line, near, far), daemon=True).start()
            threading.Thread(target=_down, args=(line, far, near), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield line
    finally:
        server.close()


def _up(line: Line, near: socket.socket, far: socket.socket) -> None:
    try:
        while piece := near.recv(PIECE):
            with line.lock:
                line.sent += len(piece)
                if piece[:5] in (b"GET /", b"HEAD ", b"POST ", b"PUT /"):
                    line.requests.append(piece.split(b"\r\n\r\n")[0].decode("latin-1"))
            far.sendall(piece)
    except OSError:
        pass  # cut
    finally:
        _close(far)


def _down(line: Line, far: socket.socket, near: socket.socket) -> None:
    passed = 0
    try:
        while piece := far.recv(PIECE):
            passed += len(piece)
            line.received += len(piece)
            if line.cut_after and passed > line.cut_after and line.may_cut():
                break
            near.sendall(piece)
    except OSError:
        pass  # the client went away
    finally:
        _close(near)
        _close(far)


def _close(end: socket.socket) -> None:
    try:
        end.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # closed already
    end.close()
