"""What a set of files is, and which files may be there at all."""

from __future__ import annotations

import pytest

from vectors.tensorfile.errors import Problem, TensorFileError
from vectors.tensorfile.forms import check_kind, check_path, detect_form


@pytest.mark.parametrize(
    ("paths", "form"),
    [
        (["model.safetensors", "config.json"], "full"),
        (["model-00001-of-00002.safetensors", "model.safetensors.index.json"], "full"),
        (["weights.safetensors"], "full"),
        (["delta.safetensors"], "delta"),
        (["delta-00001-of-00001.safetensors", "delta.safetensors.index.json"], "delta"),
        (["adapter_model.safetensors", "adapter_config.json"], "lora"),
        (["adapter_config.json", "adapter_model-00001-of-00002.safetensors", "README.md"], "lora"),
    ],
)
def test_the_form_is_told_by_the_names(paths: list[str], form: str) -> None:
    assert detect_form(paths) == form
    assert detect_form(reversed(paths)) == form


def test_an_adapter_without_its_config_is_refused() -> None:
    with pytest.raises(TensorFileError, match=r"adapter_config\.json is missing"):
        detect_form(["adapter_model.safetensors"])


@pytest.mark.parametrize("paths", [[], ["README.md", "config.json"], ["deltas.txt"]])
def test_files_without_weights_are_refused(paths: list[str]) -> None:
    with pytest.raises(TensorFileError, match="no weights among the files"):
        detect_form(paths)


@pytest.mark.parametrize(
    "path",
    "pytorch_model.bin a/b/model.PT x.pth last.ckpt m.pkl m.pickle m.joblib w.npz "
    "flax_model.msgpack tf_model.h5 model.onnx q4.gguf".split(),
)
def test_other_weights_are_refused_by_name(path: str) -> None:
    for check in (check_kind, lambda name: detect_form([name, "model.safetensors"])):
        with pytest.raises(TensorFileError) as caught:
            check(path)
        assert path in str(caught.value)
        assert "safetensors only" in str(caught.value)


@pytest.mark.parametrize(
    "path",
    [
        "model.safetensors",
        "tokenizer.json",
        "1_Pooling/config.json",
        "a/b/c/d/e/f",
        ".gitattributes",
        "說明.md",
        "with space.txt",
        "...",
        "a..b",
    ],
)
def test_usable_paths_are_returned_as_they_are(path: str) -> None:
    check_kind(path)
    assert check_path(path) == path


@pytest.mark.parametrize(
    "path",
    [
        *("", "x" * 401, "a/b/c/d/e/f/g"),
        *(". .. / /etc/passwd ../x a/../b a/./b ./a a//b a/ //a".split()),
        *('a\\b C:x a"b a<b> a|b a?b a*b'.split()),
        *(".git .git/config a/.gitmodules .github/x.yml".split()),
        *("a\0b", "a\nb", "a\tb", "a\x7fb", "a\ud800b"),
    ],
)
def test_unusable_paths_are_refused(path: str) -> None:
    with pytest.raises(TensorFileError, match="not a usable file name") as caught:
        check_path(path)
    assert len(str(caught.value)) < 200


def test_a_problem_keeps_its_template_for_the_translation() -> None:
    problem = Problem("%(file)s has %(size)d bytes.", file="a", size=3)
    assert str(problem) == "a has 3 bytes."
    assert problem.template == "%(file)s has %(size)d bytes."
    assert problem.params == {"file": "a", "size": 3}
    assert str(Problem("100 % of nothing")) == "100 % of nothing"
