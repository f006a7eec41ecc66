"""The engine as a command on real folders: `python -m merging RECIPE.yaml OUT`."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModel, BertConfig, BertModel

from merging.__main__ import main
from merging.engine import run
from merging.engine.describe import parameter_text
from merging.engine.methods import METHODS
from tests.engine.models import same

BERT = BertConfig(
    vocab_size=20,
    hidden_size=8,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=12,
    max_position_embeddings=10,
)


def moved(model: BertModel, seed: int) -> BertModel:
    """``model`` with every number moved a little."""
    torch.manual_seed(seed)
    for parameter in model.parameters():
        parameter.data += 0.03 * torch.randn_like(parameter)
    return model


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A foundation, a fine-tune, a fine-tune in shards, and two LoRA adapters, by transformers
    and peft."""
    root = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    base = BertModel(BERT)
    base.save_pretrained(root / "base")
    (root / "base" / "tokenizer.json").write_text("{}")
    (root / "base" / "1_Pooling").mkdir()
    (root / "base" / "1_Pooling" / "config.json").write_text('{"pooling": "mean"}')
    (root / "base" / "README.md").write_text("the card of the foundation")
    (root / "base" / "training_args.bin").write_bytes(b"\x80\x04 a pickle")
    (root / "base" / ".cache").mkdir()
    (root / "base" / ".cache" / "x").write_text("rubbish")
    moved(BertModel.from_pretrained(root / "base"), 1).save_pretrained(root / "ann" / "fine")
    (root / "ann" / "fine" / "training_args.bin").write_bytes(b"\x80\x04 a pickle")
    sharded = moved(BertModel.from_pretrained(root / "base"), 2)
    sharded.save_pretrained(root / "sharded", max_shard_size="4KB")
    adapted = peft.get_peft_model(base, peft.LoraConfig(r=2, target_modules=["query", "dense"]))
    torch.manual_seed(3)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(std=0.3)
    adapted.save_pretrained(root / "bo" / "lora")
    merged = adapted.merge_and_unload()
    merged.save_pretrained(root / "lora-merged")
    return root


@pytest.fixture
def models(tiny_models: Path, tmp_path: Path) -> Path:
    """A copy of the models that a test may break."""
    return Path(shutil.copytree(tiny_models, tmp_path / "models"))


def recipe(folder: Path, *terms: tuple[str, float], **more: Any) -> Path:
    """A recipe of ``terms`` beside the models of ``folder``."""
    data = {
        "merge_method": "task_arithmetic",
        "base_model": "base",
        "models": [{"model": name, "parameters": {"weight": weight}} for name, weight in terms],
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(data | more))
    return path


def command(*arguments: object, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "merging", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        **more,
    )


def listing(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


Refuse = Callable[..., str]


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refuse:
    """Runs the command, which must fail with one sentence and leave nothing behind."""

    def run_it(path: Path, out: Path | None = None, *options: str) -> str:
        before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
        capsys.readouterr()
        code = main([str(path), str(out or tmp_path / "out"), "--quiet", *options])
        after = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
        assert after == before
        assert not (tmp_path / "out").exists()
        assert not list(tmp_path.rglob("*.partial-*"))
        text = capsys.readouterr()
        assert code == 1
        assert text.err.startswith("error: ")
        assert "Traceback" not in text.err
        return " ".join(text.err.removeprefix("error: ").split())

    return run_it


# Merging


def test_the_result_loads_in_transformers(tiny_models: Path, tmp_path: Path) -> None:
    """A process of its own; a fine-tune and an adapter; every number is the sum."""
    path = recipe(tmp_path, ("ann/fine", 0.5), ("base+bo/lora", 1.0))
    done = command(path, tmp_path / "out" / "new", "--models", tiny_models)
    assert done.returncode == 0, done.stderr
    out = tmp_path / "out" / "new"
    assert listing(out) == {
        "1_Pooling/config.json",
        "config.json",
        "model.safetensors",
        "recipe.yaml",
        "tokenizer.json",
    }
    assert (out / "recipe.yaml").read_bytes() == path.read_bytes()
    found = AutoModel.from_pretrained(out).state_dict()
    base = load_file(tiny_models / "base" / "model.safetensors")
    fine = load_file(tiny_models / "ann" / "fine" / "model.safetensors")
    merged = load_file(tiny_models / "lora-merged" / "model.safetensors")
    assert set(found) == set(base)
    for name, theta in base.items():
        wide = theta.double()
        wanted = wide + 0.5 * (fine[name].double() - wide) + (merged[name].double() - wide)
        torch.testing.assert_close(found[name].double(), wanted, rtol=1e-6, atol=1e-6, msg=name)
    assert f"{out}:" in done.stdout
    assert "merged" in done.stdout


def test_a_fine_tune_at_one_is_that_fine_tune(tiny_models: Path, tmp_path: Path) -> None:
    """Its files, shards and configuration, bit for bit."""
    path = recipe(tmp_path, ("sharded", 1))
    assert main([str(path), str(tmp_path / "out"), "--models", str(tiny_models), "--quiet"]) == 0
    wanted = AutoModel.from_pretrained(tiny_models / "sharded").state_dict()
    found = AutoModel.from_pretrained(tmp_path / "out").state_dict()
    assert all(same(found[name], value) for name, value in wanted.items())
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) > 1
    assert json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert not (tmp_path / "out" / "tokenizer.json").exists(), "sharded has none"


def test_a_dtype_that_the_target_has_changes_nothing(tiny_models: Path, tmp_path: Path) -> None:
    outs = []
    for number, dtypes in enumerate(({}, {"dtype": "float32"}, {"out_dtype": "float32"})):
        path = recipe(tmp_path, ("ann/fine", 0.3), **dtypes)
        out = tmp_path / f"out{number}"
        main([str(path), str(out), "--models", str(tiny_models), "--quiet", "--threads", "1"])
        outs.append((out / "model.safetensors").read_bytes())
    assert outs[0] == outs[1] == outs[2]


def test_another_dtype_is_what_is_written(tiny_models: Path, tmp_path: Path) -> None:
    path = recipe(tmp_path, ("ann/fine", 1), out_dtype="bfloat16")
    main([str(path), str(tmp_path / "out"), "--models", str(tiny_models), "--quiet"])
    found = load_file(tmp_path / "out" / "model.safetensors")
    fine = load_file(tiny_models / "ann" / "fine" / "model.safetensors")
    assert {value.dtype for value in found.values()} == {torch.bfloat16}
    assert all(same(found[name], value.bfloat16()) for name, value in fine.items())


def test_an_empty_folder_is_filled(
    tiny_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    path = recipe(tmp_path, ("ann/fine", 0.5))
    monkeypatch.chdir(tmp_path / "empty")
    assert main([str(path), ".", "--models", str(tiny_models), "--quiet"]) == 0
    assert "model.safetensors" in listing(tmp_path / "empty")


def test_what_would_vanish_is_refused_unless_a_rule_says_so(
    models: Path, tmp_path: Path, refused: Refuse
) -> None:
    """The peer drops a head without a word."""
    from safetensors.torch import save_file

    fine = load_file(models / "ann" / "fine" / "model.safetensors")
    save_file(fine | {"score.weight": torch.ones(2, 8)}, models / "ann/fine/model.safetensors")
    assert "ann/fine has `score.weight`" in refused(recipe(models, ("ann/fine", 0.5)))
    rule = "take score.weight from ann/fine"
    path = recipe(models, ("ann/fine", 0.5), armory={"rules": [rule]})
    assert main([str(path), str(tmp_path / "out"), "--quiet"]) == 0
    assert load_file(tmp_path / "out" / "model.safetensors")["score.weight"].eq(1).all()


def test_a_folder_that_is_model_and_adapter_is_read_as_asked(models: Path, tmp_path: Path) -> None:
    """Its model as the foundation, its adapter as the vector."""
    for path in (models / "bo" / "lora").iterdir():
        shutil.copy(path, models / "base")
    out = tmp_path / "out"
    assert main([str(recipe(models, ("base+base", 1))), str(out), "--quiet"]) == 0
    merged = load_file(models / "lora-merged" / "model.safetensors")
    for name, value in load_file(out / "model.safetensors").items():
        torch.testing.assert_close(value, merged[name], rtol=1e-5, atol=1e-5)


# Refusals: one sentence, nothing left behind


def test_a_used_folder_is_refused_and_kept(models: Path, tmp_path: Path, refused: Refuse) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("keep me")
    found = refused(recipe(models, ("ann/fine", 1)), tmp_path / "mine")
    assert "already exists and is not empty" in found
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "keep me"
    found = refused(recipe(models, ("ann/fine", 1)), tmp_path / "mine" / "thesis.txt")
    assert "already exists" in found


def test_a_place_that_cannot_be_written_is_refused(
    models: Path, tmp_path: Path, refused: Refuse
) -> None:
    (tmp_path / "file").write_text("x")
    found = refused(recipe(models, ("ann/fine", 1)), tmp_path / "file" / "out")
    assert "cannot be written" in found


def test_a_missing_shard_is_named(models: Path, refused: Refuse) -> None:
    shard = sorted((models / "sharded").glob("model-*.safetensors"))[1]
    shard.unlink()
    assert f"The shard {shard.name} is missing" in refused(recipe(models, ("sharded", 1)))


def test_a_missing_index_is_named(models: Path, refused: Refuse) -> None:
    (models / "sharded" / "model.safetensors.index.json").unlink()
    assert "without model.safetensors.index.json" in refused(recipe(models, ("sharded", 1)))


def test_a_truncated_file_is_named_with_its_folder(models: Path, refused: Refuse) -> None:
    weights = models / "ann" / "fine" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "fine/model.safetensors is cut off" in refused(recipe(models, ("ann/fine", 1)))


def test_a_pickle_by_another_name_is_refused(models: Path, refused: Refuse) -> None:
    torch.save({"w": torch.ones(99)}, models / "ann" / "fine" / "model.safetensors")
    assert "is a pickle" in refused(recipe(models, ("ann/fine", 1)))


def test_a_folder_of_pickles_is_refused_by_name(models: Path, refused: Refuse) -> None:
    (models / "ann" / "fine" / "model.safetensors").rename(models / "ann/fine/pytorch_model.bin")
    found = refused(recipe(models, ("ann/fine", 1)))
    assert "ann/fine holds no safetensors" in found
    (models / "base" / "model.safetensors").unlink()
    assert "base holds no safetensors" in refused(recipe(models, ("sharded", 1)))


@pytest.mark.parametrize("name", ["nobody/nothing", "base+nobody/nothing", "http://x/y"])
def test_a_folder_that_is_not_there_is_named(models: Path, refused: Refuse, name: str) -> None:
    found = refused(recipe(models, (name, 1)))
    assert f"There is no folder {name.rsplit('+', 1)[-1]}." in found
    assert "--models" in found


def test_an_adapter_written_as_a_model_says_how_to_write_it(models: Path, refused: Refuse) -> None:
    assert "write it as base+bo/lora" in refused(recipe(models, ("bo/lora", 1)))
    assert "ann/fine is not a LoRA adapter" in refused(recipe(models, ("base+ann/fine", 1)))
    found = refused(recipe(models, ("ann/fine+bo/lora", 1)))
    assert "put on ann/fine, but the foundation is base" in found


def test_an_adapter_that_does_not_add_is_named(models: Path, refused: Refuse) -> None:
    config = models / "bo" / "lora" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"use_dora": True}))
    assert "DoRA" in refused(recipe(models, ("base+bo/lora", 1)))
    config.write_text("{")
    assert "adapter_config.json is not a JSON object" in refused(
        recipe(models, ("base+bo/lora", 1))
    )


def test_a_model_of_another_width_is_refused_by_tensor(models: Path, refused: Refuse) -> None:
    config = BertConfig(**BERT.to_diff_dict() | {"intermediate_size": 14})
    shutil.rmtree(models / "ann" / "fine")
    BertModel(config).save_pretrained(models / "ann" / "fine")
    found = refused(recipe(models, ("ann/fine", 0.5)))
    assert "`encoder.layer.0.intermediate.dense" in found
    assert "14" in found
    assert "ann/fine" in found


def test_a_recipe_that_cannot_be_read_is_named(
    models: Path, tmp_path: Path, refused: Refuse
) -> None:
    assert "nowhere.yaml cannot be read" in refused(tmp_path / "nowhere.yaml")
    path = models / "recipe.yaml"
    path.write_bytes(b"\xff\xfe")
    assert "recipe.yaml cannot be read" in refused(path)
    path.write_text("merge_method: task_arithmetic\nslixes: []\n")
    assert "`slixes`" in refused(path)


def test_a_small_disk_is_noticed_before_anything_is_computed(
    models: Path, refused: Refuse, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(models)._replace(free=1000)
    monkeypatch.setattr(run.shutil, "disk_usage", lambda path: usage)
    monkeypatch.setattr(run, "_write_files", lambda *a: pytest.fail("it was computed"))
    assert "only 0.0 GB are free" in refused(recipe(models, ("ann/fine", 1)))


@pytest.mark.parametrize("threads", ["1", "3"])
def test_a_disk_that_fills_up_leaves_nothing(
    models: Path, refused: Refuse, monkeypatch: pytest.MonkeyPatch, threads: str
) -> None:
    def full(descriptor: int, data: Any, offset: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(run.os, "pwrite", full)
    found = refused(recipe(models, ("ann/fine", 0.5)), None, "--threads", threads)
    assert "No space left on device. Nothing was left behind." in found


def test_a_file_cut_while_it_is_read_leaves_nothing(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    weights = models / "ann" / "fine" / "model.safetensors"
    original = run._write_files

    def cut_first(*arguments: Any) -> None:
        os.truncate(weights, 5000)
        original(*arguments)

    monkeypatch.setattr(run, "_write_files", cut_first)
    assert main([str(recipe(models, ("ann/fine", 0.5))), str(tmp_path / "out"), "--quiet"]) == 1
    assert "fine/model.safetensors ended early" in " ".join(capsys.readouterr().err.split())
    assert {path.name for path in tmp_path.iterdir()} == {"models"}


def test_an_interruption_leaves_nothing(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run.os, "pwrite", interrupt)
    assert main([str(recipe(models, ("ann/fine", 0.5))), str(tmp_path / "out"), "--quiet"]) == 130
    assert {path.name for path in tmp_path.iterdir()} == {"models"}


# The command itself


def test_help_documents_every_method() -> None:
    done = command("--help")
    assert done.returncode == 0
    for method in METHODS.values():
        for text in (method.name, method.formula, method.help, method.source):
            assert text in done.stdout
        for parameter in method.parameters:
            assert parameter_text(parameter) in done.stdout
            assert parameter.help in parameter_text(parameter)
        if method.suggested:
            assert f"Suggested lambda: {method.suggested[0]:g} to" in done.stdout


@pytest.mark.parametrize("threads", ["0", "-1", "65", "two", "²", "9" * 5000])
def test_threads_are_a_small_number(threads: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["recipe.yaml", "out", "--threads", threads])
    assert "is not a number from 1 to 64" in capsys.readouterr().err


@pytest.mark.parametrize(
    "module",
    [
        "merging.engine.run",
        "merging.engine.local",
        "merging.engine.mergekit",
        "merging.engine.expression",
        "merging.__main__",
        "vectors.tensorfile.lora",
        "vectors.tensorfile.fingerprint",
        "vectors.tensorfile.measure",
    ],
)
def test_the_pure_packages_import_nothing_heavy(module: str) -> None:
    heavy = ("django", "celery", "torch", "transformers", "peft", "marketplace")
    code = f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
