"""Builds as jobs: the stream's bytes in storage, room for them, stopping, and starting again."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import AnonymousUser, User
from django.db import IntegrityError, transaction
from django.test import override_settings
from django.utils import timezone

from merging import building, builds
from merging.builds import NeverFits, evict, make_room, start_build, stop_build
from merging.checks.turns import ending
from merging.hashes import known_hash
from merging.models import Build, BuildFile, BuildState, ComputedHash, EquippedModel
from merging.repository import Opened
from merging.services import equip_expression
from tests.merging.build_shop import FILES, kept, shas, stock, streamed, weights
from tests.people import person
from tests.vectors.conftest import any_storage, local_storage, s3_storage
from tests.vectors.s3 import s3_bucket, s3_endpoint
from vectors import leases
from vectors.dropping import drop_bytes
from vectors.errors import Refusal
from vectors.importing import add_vector
from vectors.models import Access, Blob, Foundation, Vector, Version
from vectors.storage.base import Storage
from vectors.storage.current import storage
from vectors.uploads import open_uploads

__all__ = ["any_storage", "local_storage", "s3_bucket", "s3_endpoint", "s3_storage"]

# Committed for real: a lease is renewed by a thread with a connection of its own.
pytestmark = pytest.mark.django_db(transaction=True)

Equip = Callable[[str], EquippedModel]


@pytest.fixture
def shop(local_storage: Storage, owner: User, tmp_path: Path) -> dict[str, Vector]:
    return stock(tmp_path, owner)[1]


@pytest.fixture
def equip(shop: dict[str, Vector], owner: User) -> Equip:
    return lambda expression: equip_expression(expression, on="", user=owner)


def built(row: EquippedModel, user: User) -> Build:
    build = start_build(row=row, user=user)
    building.run_build(build.pk)
    build.refresh_from_db()
    return build


def staged(root: Path) -> list[Path]:
    return list((root / "blobs" / "staging").glob("*"))


# --- what is written -------------------------------------------------------------------------


def test_a_build_is_the_stream_written_down(
    any_storage: Storage, owner: User, buyer: User, tmp_path: Path
) -> None:
    stock(tmp_path, owner)
    row = equip_expression("0.5*law + 0.25*mood", on="", user=owner)
    wanted = shas(streamed(row))
    ComputedHash.objects.all().delete()
    build = built(row, buyer)
    assert (build.state, build.error, build.percent) == (BuildState.DONE, "", 100)
    assert kept(build) == wanted
    assert len(wanted) == FILES
    assert build.done_bytes == row.nbytes
    assert build.started is not None
    for file, _opened in weights(row):
        assert known_hash(file.etag) == wanted[file.path]
        assert any_storage.size(wanted[file.path]) == file.size
    assert build.upload, "the last one's name; its bytes are gone"
    with pytest.raises(Refusal):
        any_storage.open_staged(build.upload)
    again = start_build(row=row, user=owner)
    assert (again.state, again.finished) == (BuildState.DONE, build.finished)


def test_a_file_is_cut_into_parts_at_any_byte() -> None:
    pieces = [b"abc", b"", b"defgh", b"i", b"jklmnopq"]
    for size in (1, 2, 3, 7, 17, 100):
        parts = [b"".join(part) for part in building.parts_of(iter(pieces), size)]
        assert b"".join(parts) == b"".join(pieces)
        assert {len(part) for part in parts[:-1]} <= {size}
        assert 0 < len(parts[-1]) <= size


def test_bytes_that_differ_from_those_of_before_are_not_kept(
    equip: Equip, owner: User, caplog: pytest.LogCaptureFixture
) -> None:
    row = equip("law + mood")
    file, _opened = next(weights(row))
    ComputedHash.objects.create(etag=file.etag, sha256="0" * 64, size=file.size)
    build = built(row, owner)
    assert (build.state, build.error) == (BuildState.FAILED, "The build broke. Try again.")
    assert f"was {'0' * 64} once" in caplog.text
    assert not BuildFile.objects.exists()


def test_a_full_disk_is_a_sentence_and_leaves_nothing(
    equip: Equip, owner: User, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = equip("law + mood")
    monkeypatch.setattr(type(storage()), "free_bytes", lambda _self: 4_000_000)
    build = built(row, owner)
    assert build.state == BuildState.FAILED
    assert "only 0.0 GB are free on this site" in build.error
    monkeypatch.undo()

    def full(_self: object, *_args: object) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(type(storage()), "write_part", full)
    assert built(row, owner).state == BuildState.FAILED
    assert staged(tmp_path) == []
    monkeypatch.undo()
    assert built(row, owner).state == BuildState.DONE


# --- states ----------------------------------------------------------------------------------


def test_only_the_arrows_that_are_written_down(
    equip: Equip, owner: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each verb from each state: what it makes of it is an arrow, or nothing."""
    build = start_build(row=equip("law + mood"), user=owner)
    monkeypatch.setattr(builds, "is_current", lambda build: True)
    verbs: dict[str, Callable[[], object]] = {
        "start": lambda: start_build(row=build.equipped, user=owner),
        "stop": lambda: stop_build(build=Build.objects.get(pk=build.pk), user=owner),
        "evict": lambda: evict(Build.objects.get(pk=build.pk)),
        "claim": lambda: leases.claim(Build, build.pk),
    }
    seen: dict[str, set[str]] = {state: set() for state in BuildState.values}
    for state in BuildState.values:
        for verb in verbs.values():
            Build.objects.filter(pk=build.pk).update(
                state=state,
                finished=timezone.now(),
                lease_until=timezone.now() + timedelta(minutes=1),
            )
            verb()
            now = Build.objects.get(pk=build.pk).state
            if now != state:
                assert now in Build.ARROWS[BuildState(state)], (state, now)
                seen[state].add(now)
    assert seen[BuildState.QUEUED] == {"running", "cancelled"}
    assert seen[BuildState.RUNNING] == set(), "somebody has it: a wish to stop is noted"
    for state in (BuildState.FAILED, BuildState.CANCELLED, BuildState.EVICTED):
        assert seen[state] == {"queued"}
    assert seen[BuildState.DONE] == {"evicted"}


def test_the_database_refuses_a_state_there_is_not(equip: Equip, owner: User) -> None:
    build = start_build(row=equip("law + mood"), user=owner)
    for fields in ({"state": "lost"}, {"state": "done", "finished": None}):
        with pytest.raises(IntegrityError), transaction.atomic():
            Build.objects.filter(pk=build.pk).update(**fields)


def test_stopping_a_waiting_build_ends_it_at_once(equip: Equip, owner: User, buyer: User) -> None:
    build = start_build(row=equip("law + mood"), user=owner)
    with pytest.raises(Refusal, match="Only who started a build may stop it"):
        stop_build(build=build, user=buyer)
    with pytest.raises(Refusal):
        stop_build(build=build, user=AnonymousUser())
    stop_build(build=build, user=owner)
    assert build.state == BuildState.CANCELLED
    building.run_build(build.pk)
    build.refresh_from_db()
    assert (build.state, build.attempt) == (BuildState.CANCELLED, 0)


@pytest.fixture
def at_file(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], object]], None]:
    """``at_file(2, act)``: do something in the middle of the second file of the next build."""

    def arrange(number: int, act: Callable[[], object]) -> None:
        real, begun = building.stream_ahead, iter(range(1, 100))

        def stream(file: Any) -> Iterator[bytes]:
            mine = next(begun) == number
            for piece in real(file):
                yield piece
                if mine:
                    mine = False
                    act()

        monkeypatch.setattr(building, "stream_ahead", stream)
        monkeypatch.setattr(building, "LOOK_EVERY", 0)

    return arrange


def test_a_running_build_is_stopped_and_goes_on_from_its_whole_files(
    equip: Equip, owner: User, tmp_path: Path, at_file: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = equip("law + mood")
    build = start_build(row=row, user=owner)
    at_file(2, lambda: stop_build(build=Build.objects.get(pk=build.pk), user=owner))
    building.run_build(build.pk)
    build.refresh_from_db()
    assert build.state == BuildState.CANCELLED
    assert build.finished is not None
    first = kept(build)
    assert len(first) == 1
    assert staged(tmp_path) == []
    monkeypatch.undo()
    assert built(row, owner).state == BuildState.DONE
    assert kept(build) == shas(streamed(row))


def test_a_worker_that_is_told_to_end_gives_its_build_back(
    equip: Equip, owner: User, tmp_path: Path, at_file: Any
) -> None:
    build = start_build(row=equip("law + mood"), user=owner)
    at_file(2, ending.set)
    try:
        building.run_build(build.pk)
        build.refresh_from_db()
        assert (build.state, build.attempt, len(kept(build))) == (BuildState.QUEUED, 0, 1)
        building.run_build(build.pk)
        build.refresh_from_db()
        assert build.state == BuildState.QUEUED, "it begins nothing more"
    finally:
        ending.clear()
    assert staged(tmp_path) == []
    building.run_build(build.pk)
    build.refresh_from_db()
    assert (build.state, len(kept(build))) == (BuildState.DONE, FILES)


def test_a_worker_thought_dead_adds_nothing(
    equip: Equip, owner: User, tmp_path: Path, at_file: Any
) -> None:
    """Another takes the build while the first is in its second file; the first ends in silence."""
    row = equip("law + mood")
    build = start_build(row=row, user=owner)

    def take_over() -> None:
        Build.objects.filter(pk=build.pk).update(lease_until=timezone.now() - timedelta(hours=1))
        building.run_build(build.pk)

    at_file(2, take_over)
    building.run_build(build.pk)
    build.refresh_from_db()
    assert (build.state, build.attempt) == (BuildState.DONE, 2)
    assert kept(build) == shas(streamed(row))
    assert BuildFile.objects.count() == FILES
    assert staged(tmp_path) == []


def test_a_worker_thought_dead_brings_nothing_back(
    equip: Equip, owner: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stands right before it says that a file is there; another ends the build, and it is
    dropped: what the first finds is not its own any more."""
    build = start_build(row=equip("law + mood"), user=owner)
    real, first = storage().complete, [True]

    def complete(*arguments: Any) -> None:
        real(*arguments)
        if first.pop() if first else False:
            Build.objects.filter(pk=build.pk).update(lease_until=timezone.now() - timedelta(1))
            building.run_build(build.pk)
            done = Build.objects.get(pk=build.pk)
            assert done.state == BuildState.DONE
            evict(done)

    monkeypatch.setattr(storage(), "complete", complete)
    building.run_build(build.pk)
    build.refresh_from_db()
    assert (build.state, build.attempt) == (BuildState.EVICTED, 2)
    assert not BuildFile.objects.exists()


def test_one_build_at_a_time_the_oldest_first(equip: Equip, owner: User) -> None:
    first, second = (start_build(row=equip(line), user=owner) for line in ("law", "mood"))
    lease = leases.claim(Build, first.pk)
    assert lease is not None
    building.run_build(second.pk)
    second.refresh_from_db()
    assert second.state == BuildState.QUEUED, "it waits for its turn"
    lease.finish(BuildState.CANCELLED)
    building.run_build(second.pk)
    second.refresh_from_db()
    assert second.state == BuildState.DONE


def test_the_bell_rings_when_a_build_can_begin(
    equip: Equip, owner: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    rung: list[int] = []
    send = "merging.tasks.run_build.apply_async"
    monkeypatch.setattr(send, lambda arguments, **_options: rung.append(arguments[0]))
    first = start_build(row=equip("law"), user=owner)
    assert rung == [first.pk]
    assert leases.claim(Build, first.pk) is not None
    second = start_build(row=equip("mood"), user=owner)
    assert rung == [first.pk], "its turn comes"
    Build.objects.filter(pk=first.pk).update(state=BuildState.CANCELLED)
    with override_settings(ARMORY_BUILDS_BYTES=0):
        leases.ring(second)
    assert rung == [first.pk], "nobody is there to hear it"
    leases.ring(second)
    assert rung == [first.pk, second.pk]


# --- who may ---------------------------------------------------------------------------------


def test_a_build_takes_a_right_to_every_part(
    equip: Equip, shop: dict[str, Vector], stranger: User
) -> None:
    row = equip("law + mood")
    with pytest.raises(Refusal, match="Sign in"):
        start_build(row=row, user=AnonymousUser())
    Vector.objects.filter(name="mood").update(access=Access.MANUAL)
    with pytest.raises(Refusal, match="You may not use every part"):
        start_build(row=row, user=stranger)
    assert not Build.objects.exists()


def test_nobody_fills_the_line(equip: Equip, buyer: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builds, "MAX_UNDER_WAY", 1)
    start_build(row=equip("law"), user=buyer)
    with pytest.raises(Refusal, match="You have 1 builds under way"):
        start_build(row=equip("mood"), user=buyer)
    assert Build.objects.count() == 1


# --- room ------------------------------------------------------------------------------------


def test_the_least_recently_used_makes_room(equip: Equip, owner: User) -> None:
    rows = [equip(f"law + 0.{n}*mood") for n in (1, 2, 3, 4)]
    with override_settings(ARMORY_BUILDS_BYTES=3 * rows[0].nbytes):
        first, second, third = (built(row, owner) for row in rows[:3])
        Build.objects.filter(pk=second.pk).update(last_used=timezone.now() - timedelta(days=1))
        gone = set(kept(second).values())
        fourth = built(rows[3], owner)
    states = {each.pk: each.state for each in Build.objects.all()}
    assert states == {
        first.pk: "done",
        second.pk: "evicted",
        third.pk: "done",
        fourth.pk: "done",
    }
    assert not BuildFile.objects.filter(build=second).exists()
    for sha256 in gone:
        assert storage().size(sha256) is None
        assert not Blob.objects.filter(pk=sha256).exists()
    assert kept(first).keys() == kept(fourth).keys()
    assert all(storage().size(sha256) for sha256 in kept(first).values())


def test_what_never_fits_is_refused_and_drops_nothing(equip: Equip, owner: User) -> None:
    first = built(equip("law"), owner)
    row = equip("law + mood")
    less = override_settings(ARMORY_BUILDS_BYTES=row.nbytes - 1)
    sentence = r"This model has 0\.0 GB, and this site keeps 0\.0 GB of builds in all"
    with less, pytest.raises(NeverFits, match=sentence):
        start_build(row=row, user=owner)
    off = override_settings(ARMORY_BUILDS_BYTES=0)
    with off, pytest.raises(Refusal, match="switched them off"):
        start_build(row=row, user=owner)
    # The room became less while it waited.
    second = start_build(row=row, user=owner)
    with override_settings(ARMORY_BUILDS_BYTES=row.nbytes - 1):
        building.run_build(second.pk)
    second.refresh_from_db()
    assert (second.state, second.refusal["params"]["limit"]) == ("failed", (row.nbytes - 1) / 1e9)
    first.refresh_from_db()
    assert (first.state, len(kept(first))) == ("done", FILES)


def test_what_is_being_written_is_never_dropped(equip: Equip, owner: User) -> None:
    """Not even its finished files, and the room that it has reserved is taken."""
    rows = [equip("law + 0.1*mood"), equip("law + 0.2*mood")]
    running = start_build(row=rows[0], user=owner)
    assert leases.claim(Build, running.pk) is not None
    Build.objects.filter(pk=running.pk).update(total_bytes=rows[0].nbytes)
    other = start_build(row=rows[1], user=owner)
    with override_settings(ARMORY_BUILDS_BYTES=2 * rows[0].nbytes - 1):
        with pytest.raises(builds.NoRoomYet):
            make_room(other, rows[1].nbytes)
        Build.objects.filter(pk=running.pk).update(lease_until=timezone.now() - timedelta(1))
        building.run_build(other.pk)
    other.refresh_from_db()
    assert (other.state, other.attempt) == (BuildState.QUEUED, 0), "it waits for its turn"


def test_less_room_drops_what_does_not_fit_any_more(equip: Equip, owner: User) -> None:
    rows = [equip(f"law + 0.{n}*mood") for n in (1, 2, 3)]
    made = [built(row, owner) for row in rows]
    for build, hours in zip(made, (1, 3, 2), strict=True):
        used = timezone.now() - timedelta(hours=hours)
        Build.objects.filter(pk=build.pk).update(last_used=used)
    assert builds.keep_to_room() == 0
    with override_settings(ARMORY_BUILDS_BYTES=2 * rows[0].nbytes):
        assert builds.keep_to_room() == 1
    states = [Build.objects.get(pk=build.pk).state for build in made]
    assert states == [BuildState.DONE, BuildState.EVICTED, BuildState.DONE]


def test_where_builds_are_switched_off_they_end_and_go(
    equip: Equip, owner: User, tmp_path: Path
) -> None:
    whole, half, waiting = (equip(f"law + 0.{n}*mood") for n in (1, 2, 3))
    ready = built(whole, owner)
    orphan = start_build(row=half, user=owner)
    queued = start_build(row=waiting, user=owner)
    upload = "0123456789"
    handle = storage().begin(upload, 4)
    storage().write_part(upload, handle, 1, 0, iter([b"left"]))
    Build.objects.filter(pk=orphan.pk).update(
        state=BuildState.RUNNING,
        lease_until=timezone.now() - timedelta(seconds=1),
        upload=upload,
        handle=handle,
    )
    files = kept(ready)
    with override_settings(ARMORY_BUILDS_BYTES=0):
        with closing(Opened(whole)) as opened:
            assert not any(file.built for file in opened.computed), "it is not read any more"
        assert builds.keep_to_room() == 1
        assert builds.keep_to_room() == 0
    ready.refresh_from_db()
    assert (ready.state, kept(ready)) == (BuildState.EVICTED, {})
    assert not any(storage().size(sha256) for sha256 in files.values())
    for build in (orphan, queued):
        build.refresh_from_db()
        assert build.state == BuildState.FAILED
        assert "switched them off" in build.error
    assert not staged(tmp_path)
    assert built(waiting, owner).state == BuildState.DONE, "switched on, it can be started again"


def published(row: EquippedModel, owner: User, folder: Path, foundation: Foundation) -> Version:
    """The equipped model, downloaded and uploaded again as a vector: the same bytes."""
    folder.mkdir()
    with closing(Opened(row)) as opened:
        for file in opened.files.values():
            (folder / file.path).write_bytes(b"".join(file.read()))
    return add_vector(folder, repo_id="olive/sum", foundation=foundation, owner=owner)


def test_nobodys_upload_goes_with_a_build(
    equip: Equip, shop: dict[str, Vector], owner: User, tmp_path: Path
) -> None:
    row = equip("law + mood")
    build = built(row, owner)
    version = published(row, owner, tmp_path / "sum", row.foundation)
    shared = set(kept(build).values())
    assert shared <= set(version.files.values_list("blob_id", flat=True))
    evict(build)
    assert build.state == BuildState.EVICTED
    assert all(storage().size(sha256) for sha256 in shared)
    assert Blob.objects.filter(pk__in=shared).count() == FILES
    # And the other way round: what an upload gives back stays while a build has it.
    again = built(row, owner)
    drop_bytes(version)
    assert all(storage().size(sha256) for sha256 in shared)
    evict(again)
    assert not any(storage().size(sha256) for sha256 in shared)


def test_equal_files_of_two_builds_go_with_the_last(
    equip: Equip, owner: User, tmp_path: Path
) -> None:
    row = equip("law + mood")
    published(row, owner, tmp_path / "sum", row.foundation)
    first, second = built(row, owner), built(equip("sum"), owner)
    assert kept(first) == kept(second)
    assert first.pk != second.pk
    drop_bytes(Version.objects.get(vector__name="sum"))
    evict(first)
    assert all(storage().size(sha256) for sha256 in kept(second).values())
    gone = set(kept(second).values())
    evict(second)
    assert not any(storage().size(sha256) for sha256 in gone)


def test_an_upload_that_has_just_arrived_counts_as_somebodys(
    equip: Equip, shop: dict[str, Vector], owner: User
) -> None:
    build = built(equip("law + mood"), owner)
    path, sha256 = next(iter(kept(build).items()))
    size = storage().size(sha256)
    assert size is not None
    (upload,) = open_uploads(owner=person("una"), files=[(path, size, sha256)])
    type(upload).objects.filter(pk=upload.pk).update(blob=sha256, state=upload.State.STORED)
    evict(build)
    assert storage().size(sha256) == size
    assert Blob.objects.filter(pk=sha256).exists()
