"""Sketches as rows: made by every way in, replaced and dropped; neighbours and who may see them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from django.contrib.auth.models import AnonymousUser, User
from django.core.management import CommandError, call_command
from pytest_django import DjangoAssertNumQueries
from safetensors.torch import save_file

from tests.engine.models import State
from tests.engine.models import foundation as make_state
from vectors import services
from vectors.dropping import discard
from vectors.importing import add_foundation, add_vector
from vectors.models import Blob, Foundation, Grant, Sketch, Vector, Version
from vectors.neighbours import Neighbours, neighbours
from vectors.sketches import keep_sketch, read_sketch, unsketched
from vectors.storage.current import storage
from vectors.tensorfile.likeness import Verdict, compare

pytestmark = pytest.mark.django_db(transaction=True)

Delta = dict[str, torch.Tensor]
Add = Callable[..., Version]
EVERYBODY = AnonymousUser()


def random_delta(seed: int) -> Delta:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: 0.02 * torch.randn(value.shape, generator=generator)
        for name, value in make_state(torch.float32).items()
        if value.is_floating_point()
    }


def mixed(*parts: tuple[float, Delta]) -> Delta:
    return {name: sum(c * delta[name] for c, delta in parts) for name in parts[0][1]}  # type: ignore[misc]


@pytest.fixture
def tiny(tmp_path: Path, settings: object) -> Foundation:
    settings.ARMORY_DATA = tmp_path / "data"  # type: ignore[attr-defined]
    (tmp_path / "tiny").mkdir()
    save_file(make_state(torch.float32), tmp_path / "tiny" / "model.safetensors")
    return add_foundation(tmp_path / "tiny", repo_id="lab/tiny")


@pytest.fixture
def add(tiny: Foundation, owner: User, tmp_path: Path) -> Add:
    """Publish a full checkpoint that is the foundation and a delta."""

    def added(name: str, delta: Delta, user: User = owner) -> Version:
        state = make_state(torch.float32)
        folder = tmp_path / name
        folder.mkdir()
        save_file(
            {key: value + delta[key] if key in delta else value for key, value in state.items()},
            folder / "model.safetensors",
        )
        repo_id = f"{user.get_username()}/{name}"
        return add_vector(folder, repo_id=repo_id, foundation=tiny, owner=user)

    return added


def lora_folder(folder: Path, seed: int) -> State:
    """A LoRA of two matrices, in PEFT's files; returns its deltas."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(seed)
    tensors, delta = {}, {}
    for name in ("layers.0", "layers.1"):
        a = torch.randn(4, 53, generator=generator)
        b = torch.randn(37, 4, generator=generator)
        tensors[f"base_model.model.{name}.lora_A.weight"] = a
        tensors[f"base_model.model.{name}.lora_B.weight"] = b
        delta[f"{name}.weight"] = 0.02 * (b @ a)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 0.08, "target_modules": []}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return delta


def test_full_delta_and_lora_of_one_change_have_one_sketch(
    add: Add, tiny: Foundation, owner: User, tmp_path: Path
) -> None:
    delta = lora_folder(tmp_path / "lora", 1)
    lora = add_vector(tmp_path / "lora", repo_id="olive/lora", foundation=tiny, owner=owner)
    (tmp_path / "delta").mkdir()
    save_file(delta, tmp_path / "delta" / "delta.safetensors")
    stored = add_vector(tmp_path / "delta", repo_id="olive/delta", foundation=tiny, owner=owner)
    full = add("full", delta)
    assert [each.form for each in (lora, stored, full)] == ["lora", "delta", "full"]
    for version in (lora, stored, full):
        row = version.sketch
        assert row.norm == pytest.approx(version.verdict["norm"], rel=1e-4)
        assert (row.entries, row.changed) == (2 * 37 * 53, pytest.approx(2 * 37 * 53, abs=4))
        found = compare(read_sketch(row.blob_id), read_sketch(full.sketch.blob_id))
        assert (found.cosine, found.overlap) == pytest.approx((1, 1), abs=1e-3)
        assert found.large_conflict == 0


def test_make_sketches_makes_what_is_missing_and_says_what_it_could_not(
    add: Add, capsys: pytest.CaptureFixture[str]
) -> None:
    kept, lost, old, broken = (add(f"v{seed}", random_delta(seed)) for seed in range(4))
    before = lost.sketch.blob_id, old.sketch.blob_id
    Sketch.objects.filter(version__in=[lost, broken]).delete()
    Sketch.objects.filter(version=old).update(format=0)
    storage().delete(broken.files.get(path="model.safetensors").blob_id)
    assert set(unsketched()) == {lost, old, broken}
    with pytest.raises(CommandError, match="1 versions have no sketch"):
        call_command("make_sketches")
    assert "olive/v3 v1: The stored file" in capsys.readouterr().err
    assert set(unsketched()) == {broken}
    for version, blob in zip((lost, old), before, strict=True):
        assert Sketch.objects.get(version=version).blob_id == blob
    assert storage().size(kept.sketch.blob_id)


def test_a_sketch_that_is_replaced_or_discarded_leaves_nothing(add: Add, owner: User) -> None:
    version, other = add("one", random_delta(1)), add("two", random_delta(2))
    before = version.sketch.blob_id
    keep_sketch(version, read_sketch(other.sketch.blob_id))
    assert storage().size(before) is None
    assert not Blob.objects.filter(pk=before).exists()
    shared = other.sketch.blob_id
    Version.objects.filter(pk=version.pk).update(state=Version.State.READY)
    Vector.objects.filter(pk=version.vector_id).update(current=None)
    discard(Version.objects.get(pk=version.pk))
    assert storage().size(shared)  # the other's
    assert Sketch.objects.get().version == other


def names(found: Neighbours | None) -> dict[str, set[str]]:
    assert found is not None
    return {
        kind: {each.vector.name for each in getattr(found, kind)}
        for kind in ("fitting", "alike", "contradicting")
    }


@pytest.fixture
def family(add: Add) -> dict[str, Version]:
    a, b, c = (random_delta(seed) for seed in (1, 2, 3))
    return {
        "one": add("one", a),
        "twin": add("twin", mixed((1.01, a), (0.1, b))),
        "cousin": add("cousin", mixed((0.3, a), (1, b))),
        "stranger": add("stranger", b),
        "other": add("other", c),
        "opposite": add("opposite", mixed((-0.6, a), (1, c))),
    }


def test_neighbours_are_told_by_their_sketches(family: dict[str, Version]) -> None:
    found = neighbours(family["one"], user=EVERYBODY)
    assert names(found) == {
        "fitting": {"stranger", "other"},
        "alike": {"twin", "cousin"},
        "contradicting": {"opposite"},
    }
    assert found is not None
    assert [each.likeness.verdict for each in found.alike] == [Verdict.DUPLICATE, Verdict.RELATED]
    assert (found.compared, found.unknown) == (5, 0)
    (against,) = found.contradicting
    assert against.verdict == "contradiction"
    assert "pull against each other" in against.text
    Sketch.objects.filter(version=family["other"]).delete()
    found = neighbours(family["one"], user=EVERYBODY)
    assert found is not None
    assert (found.compared, found.unknown) == (4, 1)
    assert neighbours(family["other"], user=EVERYBODY) is None


def test_what_fits_is_in_the_order_of_its_use(family: dict[str, Version]) -> None:
    for name, equips in (("stranger", 3), ("other", 7)):
        Vector.objects.filter(name=name).update(equips=equips)
    found = neighbours(family["one"], user=EVERYBODY, limit=1)
    assert names(found)["fitting"] == {"other"}


def test_neighbours_show_only_what_the_reader_may_see(
    family: dict[str, Version], owner: User, buyer: User, stranger: User
) -> None:
    opposite = Vector.objects.get(name="opposite")
    everybody = (owner, buyer, stranger, EVERYBODY)

    def seen_by() -> list[bool]:
        return [
            "opposite" in names(neighbours(family["one"], user=user))["contradicting"]
            for user in everybody
        ]

    assert seen_by() == [True, True, True, True]
    Vector.objects.filter(pk=opposite.pk).update(visibility="private")
    assert seen_by() == [True, False, False, False]
    Grant.objects.create(user=buyer, vector=opposite)
    assert seen_by() == [True, True, False, False]
    Vector.objects.filter(pk=opposite.pk).update(visibility="public")
    services.withdraw(family["opposite"])
    assert seen_by() == [False, False, False, False]
    services.restore(family["opposite"])
    assert seen_by() == [True, True, True, True]


def test_more_vectors_need_no_more_queries(
    family: dict[str, Version],
    add: Add,
    django_assert_num_queries: DjangoAssertNumQueries,
) -> None:
    version = Version.objects.select_related("foundation").get(pk=family["one"].pk)
    with django_assert_num_queries(5):  # two more: names not met, and rows the file lacks
        neighbours(version, user=EVERYBODY)
    with django_assert_num_queries(3):
        neighbours(version, user=EVERYBODY)
    for seed in range(20, 26):
        add(f"v{seed}", random_delta(seed))
    with django_assert_num_queries(5):
        found = neighbours(version, user=EVERYBODY)
    assert found is not None
    assert found.compared == 11


def test_a_damaged_or_deleted_row_file_changes_no_answer(
    family: dict[str, Version], tmp_path: Path, add: Add
) -> None:
    expected = names(neighbours(family["one"], user=EVERYBODY))
    (folder,) = (tmp_path / "data" / "sketches").iterdir()
    rows, keys = folder / "rows", folder / "keys"
    with rows.open("ab") as handle:  # a process was killed between the two files
        handle.write(b"\x7f" * 5000)
    add("late", mixed((-1.0, random_delta(1))))
    found = names(neighbours(family["one"], user=EVERYBODY))
    assert found.pop("contradicting") == {"opposite", "late"}
    assert found == {kind: expected[kind] for kind in found}
    services.withdraw(Version.objects.get(vector__name="late"))
    with keys.open("ab") as handle:
        handle.write(b"half a key")
    assert names(neighbours(family["one"], user=EVERYBODY)) == expected
    shutil.rmtree(folder)
    assert names(neighbours(family["one"], user=EVERYBODY)) == expected
    assert keys.stat().st_size == 36 * len(expected["fitting"] | expected["alike"] | {"opposite"})
