"""Code to take along: how the tools people know load what a page shows, from this very site."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from vectors.cards import read_card, text_of
from vectors.describe import suggested_coefficient
from vectors.errors import _
from vectors.models import Access, Foundation, Version, Visibility
from vectors.tensorfile.forms import FULL, LORA

# The class of transformers for the end of an architecture's name.
_CLASSES = {
    "ForCausalLM": "AutoModelForCausalLM",
    "ForSequenceClassification": "AutoModelForSequenceClassification",
    "ForTokenClassification": "AutoModelForTokenClassification",
    "ForQuestionAnswering": "AutoModelForQuestionAnswering",
    "ForMaskedLM": "AutoModelForMaskedLM",
    "ForImageClassification": "AutoModelForImageClassification",
    "ForSpeechSeq2Seq": "AutoModelForSpeechSeq2Seq",
    "LMHeadModel": "AutoModelForCausalLM",
}
_CAUSAL = "AutoModelForCausalLM"
_FETCHED = (".safetensors", ".index.json", "config.json")


@dataclass(frozen=True)
class Snippet:
    """One tool and the code that does it there."""

    title: str
    code: str


@dataclass(frozen=True)
class Usage:
    """Snippets, and what is said once before them: where the tools look, and who they are."""

    endpoint: str
    token: bool
    snippets: Sequence[Snippet]

    @property
    def setting(self) -> str:
        """The lines for the shell."""
        lines = [f"export HF_ENDPOINT={self.endpoint}"]
        return "\n".join([*lines, "export HF_TOKEN=arm_…"] if self.token else lines)


@dataclass(frozen=True)
class Model:
    """What it takes to load the models of one foundation."""

    loader: str
    preparer: str
    sentences: bool

    @classmethod
    def of(cls, foundation: Foundation) -> Model:
        paths = set(foundation.files.values_list("path", flat=True))
        ends = (name for end, name in _CLASSES.items() if foundation.architecture.endswith(end))
        library = text_of(read_card(foundation.card).data.get("library_name"))
        return cls(
            loader=next(ends, "AutoModel"),
            preparer=_preparer(paths),
            sentences="modules.json" in paths or library == "sentence-transformers",
        )


def _preparer(paths: Collection[str]) -> str:
    if {"tokenizer.json", "tokenizer_config.json"} & set(paths):
        return "AutoTokenizer"
    return "AutoImageProcessor" if "preprocessor_config.json" in paths else ""


def of_foundation(foundation: Foundation, *, endpoint: str) -> Usage:
    """How to load a foundation."""
    model, repo_id = Model.of(foundation), foundation.repo_id
    paths = [path for path in _paths(foundation) if path.endswith(_FETCHED)]
    snippets = [
        *loading(model, repo_id),
        Snippet("hf", f"hf download {repo_id}"),
        Snippet("curl", _curl(endpoint, repo_id, "main", paths, token=False)),
    ]
    return Usage(endpoint, False, snippets)


def of_vector(version: Version, *, endpoint: str) -> Usage:
    """How to load a vector: put on its foundation, and by itself where its form allows it."""
    vector, foundation = version.vector, version.foundation
    assert vector is not None
    assert foundation is not None
    model, repo_id, base = Model.of(foundation), vector.repo_id, foundation.repo_id
    token = vector.access != Access.OPEN or vector.visibility != Visibility.PUBLIC
    revision = "" if vector.current_id == version.pk else f"v{version.number}"
    name = f"{repo_id}@{revision}" if revision else repo_id
    coefficient = suggested_coefficient(version.card)
    sign, size = "-" if coefficient < 0 else "+", f"{abs(coefficient):g}"
    equipped = f"{sign}{name}" if size == "1" else f"{sign}{size}({name})"
    snippets = loading(model, base, equipped)
    snippets += {FULL: _as_model, LORA: _as_adapter}.get(version.form, _nothing)(
        model, base, repo_id, revision
    )
    at = f" --revision {revision}" if revision else ""
    paths = [path for path in _paths(version) if path.endswith(_FETCHED)]
    snippets += [
        Snippet("hf", f"hf download {repo_id}{at}"),
        Snippet("curl", _curl(endpoint, repo_id, revision or "main", paths, token=token)),
    ]
    return Usage(endpoint, token, snippets)


def loading(model: Model, repo_id: str, revision: str = "") -> list[Snippet]:
    """A whole model with the tools that load one by its id, at a revision that is a sum."""
    which, before = f'"{repo_id}"', ""
    if revision:
        before = f'name = "{repo_id}"\nrecipe = "{revision}"\n'
        which = "name, revision=recipe"
    snippets = [Snippet("transformers", _transformers(model, which, before))]
    if model.sentences:
        code = (
            f"from sentence_transformers import SentenceTransformer\n\n{before}"
            f"model = SentenceTransformer({which})"
        )
        snippets.insert(0, Snippet("sentence-transformers", code))
    if model.loader == _CAUSAL:
        at = f" --revision '{revision}'" if revision else ""
        snippets.append(Snippet("vLLM", f"vllm serve {repo_id}{at}"))
    return snippets


def _transformers(model: Model, which: str, before: str) -> str:
    names = [model.loader, *([model.preparer] if model.preparer else [])]
    code = (
        f"from transformers import {', '.join(sorted(names))}\n\n{before}"
        f"model = {model.loader}.from_pretrained({which})"
    )
    if not model.preparer:
        return code
    what = "tokenizer" if model.preparer == "AutoTokenizer" else "processor"
    return f"{code}\n{what} = {model.preparer}.from_pretrained({which})"


def _as_model(model: Model, base: str, repo_id: str, revision: str) -> list[Snippet]:
    which = f'"{repo_id}"' + (f', revision="{revision}"' if revision else "")
    code = (
        f"from transformers import {model.loader}\n\n"
        f"model = {model.loader}.from_pretrained({which})"
    )
    return [Snippet(_("the fine-tune itself"), code)]


def _as_adapter(model: Model, base: str, repo_id: str, revision: str) -> list[Snippet]:
    at = f', revision="{revision}"' if revision else ""
    code = (
        "from peft import PeftModel\n"
        f"from transformers import {model.loader}\n\n"
        f'base = {model.loader}.from_pretrained("{base}")\n'
        f'model = PeftModel.from_pretrained(base, "{repo_id}"{at})'
    )
    snippets = [Snippet("peft", code)]
    if model.loader == _CAUSAL and not revision:
        short = repo_id.rpartition("/")[2]
        served = f"vllm serve {base} --enable-lora --lora-modules {short}={repo_id}"
        snippets.append(Snippet(_("vLLM, as an adapter"), served))
    return snippets


def _nothing(model: Model, base: str, repo_id: str, revision: str) -> list[Snippet]:
    """A delta is no model and no adapter: it is put on its foundation."""
    return []


def _paths(owner: Foundation | Version) -> list[str]:
    return list(owner.files.values_list("path", flat=True))


def _curl(endpoint: str, repo_id: str, revision: str, paths: Sequence[str], *, token: bool) -> str:
    head = '-H "Authorization: Bearer $HF_TOKEN" ' if token else ""
    return "\n".join(
        f"curl -fLO {head}{endpoint}/{repo_id}/resolve/{revision}/{path}" for path in paths
    )
