"""The runner: what it answers for each kind of probe, and what it never does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from django.conf import settings

from merging.checks.asking import Asker
from merging.checks.loading import RunError
from merging.checks.process import Runner, RunnerDied
from tests.environment import clean_environment
from vectors.probes import Item, Probe

from . import models
from .conftest import CONVNEXT, DEMO, FOLDERS, MINILM


def probe(kind: str, metric: str, pairs: list[tuple[str, str]], **more: Any) -> Probe:
    return Probe("P", kind, metric, tuple(Item(a, (b,)) for a, b in pairs), **more)


def ask(asked: Probe, folder: Path, foundation: Path | None = None) -> list[str]:
    seen: list[int] = []
    answers = Asker().ask(asked, folder, foundation, seen.append)
    assert sum(seen) == len(asked.items)
    return answers


def command(*arguments: object, cwd: Path = settings.BASE_DIR) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "merging.checks", *map(str, arguments)],
        cwd=cwd,
        env=clean_environment(Path("/nowhere"), PYTHONPATH=str(settings.BASE_DIR)),
        capture_output=True,
        text=True,
    )


def test_texts_are_classified_by_the_models_own_head(tmp_path: Path) -> None:
    model = models.classifier(tmp_path / "m")
    texts = models.sentences(40)
    tokens = models.tokenizer()
    with torch.no_grad():
        logits = [model(**tokens(text, return_tensors="pt")).logits[0] for text in texts]
    expected = ["b" if row[2] > row[0] else "a" for row in logits]
    asked = probe("text-classification", "accuracy", [(text, "a") for text in texts],
                  labels={"a": 0, "b": 2})  # fmt: skip
    assert ask(asked, tmp_path / "m") == expected
    assert len(set(expected)) == 2


def test_a_gap_is_filled_with_the_likeliest_word(tmp_path: Path) -> None:
    model = models.gap_filler(tmp_path / "m")
    tokens = models.tokenizer()
    texts = [f"{text} [MASK] ." for text in models.sentences(40, 1)]
    ids = {word: tokens.convert_tokens_to_ids(word) for word in models.WORDS}
    with torch.no_grad():
        rows = []
        for text in texts:
            batch = tokens(text, return_tensors="pt")
            place = (batch["input_ids"][0] == tokens.mask_token_id).nonzero()[0, 0]
            rows.append(model(**batch).logits[0, place])
    chosen = ["good" if row[ids["good"]] > row[ids["bad"]] else "bad" for row in rows]
    labels = {"good": "good", "bad": "bad"}
    pairs = [(text, "good") for text in texts]
    assert ask(probe("fill-mask", "accuracy", pairs, labels=labels), tmp_path / "m") == chosen
    assert len(set(chosen)) == 2
    free = ask(probe("fill-mask", "accuracy", pairs), tmp_path / "m")
    assert [word == "good" for word in free] == [int(r.argmax()) == ids["good"] for r in rows]


def test_a_word_of_several_tokens_fills_no_gap(tmp_path: Path) -> None:
    models.gap_filler(tmp_path / "m")
    with pytest.raises(RunError, match="`unheard` is no single token"):
        ask(probe("fill-mask", "accuracy", [("it is [MASK]", "unheard")]), tmp_path / "m")


def test_the_answer_is_the_likeliest_token_each_time(tmp_path: Path) -> None:
    model = models.writer(tmp_path / "m")
    tokens = models.tokenizer()
    texts = models.sentences(6, 2)
    expected = []
    for text in texts:
        ids = tokens(text, return_tensors="pt")["input_ids"]
        start = ids.shape[1]
        with torch.no_grad():
            for _ in range(5):
                ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], 1)
                if ids[0, -1] == 3:
                    break
        expected.append(tokens.decode(ids[0, start:], skip_special_tokens=True))
    asked = probe("text-generation", "exact", [(t, "x") for t in texts], max_new_tokens=5)
    assert ask(asked, tmp_path / "m") == expected
    assert any(expected)


def test_a_sound_is_written_down(tmp_path: Path) -> None:
    model, processor = models.listener(tmp_path / "m")
    pairs, expected = [], []
    for seed in range(3):
        samples, encoded = models.sound(seed)
        inputs = processor(samples, sampling_rate=16_000, return_tensors="pt")
        with torch.no_grad():
            expected += processor.batch_decode(model(**inputs).logits.argmax(-1))
        pairs.append((encoded, "a b"))
    assert ask(probe("automatic-speech-recognition", "word accuracy", pairs),
               tmp_path / "m") == expected  # fmt: skip


def test_a_model_without_the_head_is_not_asked(tmp_path: Path) -> None:
    models.gap_filler(tmp_path / "m")
    labels = {"a": 0, "b": 1}
    asked = probe("text-classification", "accuracy", [("it is", "a")], labels=labels)
    with pytest.raises(RunError, match=r"has no `bert\.pooler\..*4 tensors are missing"):
        ask(asked, tmp_path / "m")


def test_a_class_the_head_does_not_have(tmp_path: Path) -> None:
    models.classifier(tmp_path / "m")
    labels = {"a": 0, "b": 3}
    asked = probe("text-classification", "accuracy", [("it is", "a")], labels=labels)
    with pytest.raises(RunError, match="asks for class 3; the model's head has 3"):
        ask(asked, tmp_path / "m")


def test_the_command_prints_what_the_catalogue_says() -> None:
    speckled = DEMO / "vectors/bo/handwritten-digits"
    done = command(speckled, speckled / "probes.jsonl")
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)
    card = (speckled / "README.md").read_text()
    assert f"with: {row['share']:.3f}".rstrip("0") in card
    assert row["low"] < row["share"] < row["high"]
    assert (row["of"], row["chance"]) == (150, 0.1)


def test_a_bad_line_is_found_before_the_model_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"probe": "a", "kind": "retrieval"}\n{"input": 1}\n')
    done = command(tmp_path / "no-model", tmp_path / "p.jsonl")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "merging.checks: p.jsonl:2: `input` is a text that is not empty.\n"


def _evil(folder: Path) -> Path:
    """A model folder whose every door to foreign code is open."""
    models.classifier(folder)
    mark = folder / "it-ran"
    (folder / "evil.py").write_text(f"open({str(mark)!r}, 'w').close()\nclass Model: pass\n")
    for name, entry in (("config.json", "AutoModelForSequenceClassification"),
                        ("tokenizer_config.json", "AutoTokenizer")):  # fmt: skip
        path = folder / name
        data = json.loads(path.read_text())
        data["auto_map"] = {entry: "evil.Model", "AutoConfig": "evil.Model"}
        path.write_text(json.dumps(data))
    return mark


def test_no_code_of_the_folder_runs(tmp_path: Path) -> None:
    mark = _evil(tmp_path / "m")
    (tmp_path / "p.jsonl").write_text(
        '{"probe": "a", "kind": "text-classification", "labels": {"a": 0, "b": 1}}\n'
        '{"input": "it is good", "expected": "a"}\n'
    )
    command(tmp_path / "m", tmp_path / "p.jsonl", cwd=tmp_path / "m")
    assert not mark.exists()


def test_pickled_weights_are_not_opened(tmp_path: Path) -> None:
    model = models.classifier(tmp_path / "m")
    (tmp_path / "m/model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "m/pytorch_model.bin")
    asked = probe("text-classification", "accuracy", [("it", "a")], labels={"a": 0, "b": 1})
    with pytest.raises(RunError, match="The model cannot be run"):
        ask(asked, tmp_path / "m")


def test_the_limits_hold() -> None:
    code = (
        "from merging.checks.limits import confine\n"
        "confine(memory_gb=1, cpu_seconds=2, threads=1)\n"
        "try:\n    bytearray(2 * 10**9)\n"
        "except MemoryError:\n    print('no memory', flush=True)\n"
        "while True: pass\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=settings.BASE_DIR, capture_output=True, text=True
    )
    assert done.stdout == "no memory\n"
    assert done.returncode < 0, "the processor's time was up"


def test_it_ends_with_its_input() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "merging.checks", "--requests"],
        cwd=settings.BASE_DIR,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(timeout=60) == 0


def test_the_sites_processes_load_no_model_library() -> None:
    code = (
        "import django; django.setup()\n"
        "import sys, merging.tasks, merging.checks.running, merging.checks.services\n"
        "print({'torch', 'transformers'} & set(sys.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=settings.BASE_DIR,
        env=clean_environment(Path(settings.ARMORY_DATA)),
        capture_output=True,
        text=True,
    )
    assert done.stdout == "set()\n", done.stderr


@pytest.mark.slow
def test_the_encoder_is_the_one_of_sentence_transformers() -> None:
    from sentence_transformers import SentenceTransformer

    from merging.checks.embedding import Encoder
    from merging.checks.loading import Loader

    texts = [*models.sentences(20), "A longer sentence, with punctuation: and a number, 12."]
    folder = FOLDERS[MINILM]
    ours = Encoder(folder, Loader()).embed(texts)
    theirs = SentenceTransformer(str(folder), device="cpu").encode(texts, convert_to_tensor=True)
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_pictures_are_prepared_by_the_models_own_processor() -> None:
    """The demo's own evaluation reads pixels by hand; the runner by preprocessor_config.json."""
    from demo.evaluate import image_tensor, predict_images
    from vectors.probes import parse_probes

    path = DEMO / "vectors/chen/upside-down-clothes/probes.jsonl"
    (asked,) = parse_probes(path.read_bytes(), path.name)
    from transformers import AutoModelForImageClassification

    model = AutoModelForImageClassification.from_pretrained(FOLDERS[CONVNEXT])
    images = image_tensor([item.input for item in asked.items])
    expected = predict_images(model, dict(asked.labels), images)
    assert ask(asked, FOLDERS[CONVNEXT]) == expected


def test_a_dead_runner_is_told_of_and_closed(tmp_path: Path) -> None:
    runner = Runner(tmp_path, lambda: None)
    os.kill(runner.pid, signal.SIGKILL)
    os.waitid(os.P_PID, runner.pid, os.WEXITED | os.WNOWAIT)
    with pytest.raises(RunnerDied, match="signal 9"):
        runner.scores(tmp_path, tmp_path / "p.jsonl", tmp_path, lambda _count: None)
    runner.close()
