"""The broker without a service: messages are whole, in order, taken once, and bad ones harmless."""

import uuid
from collections.abc import Iterator
from pathlib import Path
from queue import Empty

import pytest
from kombu import Connection
from kombu.simple import SimpleQueue


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("messages", "control", "taken"):
        (tmp_path / name).mkdir()
    return tmp_path


def connect(folder: Path) -> Connection:
    return Connection(
        "filesystem://localhost",
        transport="marketplace.filequeue:Transport",
        transport_options={
            "data_folder_in": str(folder / "messages"),
            "data_folder_out": str(folder / "messages"),
            "control_folder": str(folder / "control"),
            "processed_folder": str(folder / "taken"),
            "polling_interval": 0.01,
        },
    )


@pytest.fixture
def name() -> str:
    # kombu remembers for the whole process which queues it has declared: each test has its own.
    return f"bell-{uuid.uuid4().hex}"


@pytest.fixture
def bell(folder: Path, name: str) -> Iterator[SimpleQueue]:
    with connect(folder) as connection, connection.SimpleQueue(name) as queue:
        yield queue


def take(queue: SimpleQueue) -> object:
    message = queue.get(timeout=1)
    message.ack()
    return message.payload


def test_messages_come_in_order_and_leave_no_file(bell: SimpleQueue, folder: Path) -> None:
    for number in range(5):
        bell.put({"job": number})
    assert [take(bell) for _ in range(5)] == [{"job": number} for number in range(5)]
    assert list((folder / "messages").iterdir()) == []
    assert list((folder / "taken").iterdir()) == []


@pytest.mark.parametrize("content", ["", '{"body": "ab', "null\x00"])
def test_a_broken_message_is_dropped_and_the_next_is_read(
    bell: SimpleQueue, folder: Path, name: str, content: str
) -> None:
    (folder / "messages" / f"0_torn.{name}.msg").write_text(content)
    bell.put({"job": 1})
    assert take(bell) == {"job": 1}
    assert list((folder / "taken").iterdir()) == []


def test_a_torn_table_of_queues_heals(folder: Path, name: str) -> None:
    (folder / "control" / f"{name}.exchange").write_text("[[")
    with connect(folder) as connection, connection.SimpleQueue(name) as queue:
        queue.put({"job": 1})
        assert take(queue) == {"job": 1}


def test_two_workers_share_the_messages(bell: SimpleQueue, folder: Path, name: str) -> None:
    bell.put({"job": 1})
    with connect(folder) as other, other.SimpleQueue(name) as second:
        assert take(second) == {"job": 1}
        with pytest.raises(Empty):
            bell.get(timeout=0.1)
