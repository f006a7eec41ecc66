"""The engine as a command: ``python -m merging RECIPE OUT``."""

from __future__ import annotations

import argparse
import os
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vectors.tensorfile.errors import Problem

if TYPE_CHECKING:
    from merging.engine.local import LocalEquipment

MAX_THREADS = 64
MODEL = "model"
_DESCRIPTION = """\
Equip a model: merge checkpoints and LoRA adapters. RECIPE is a file (mergekit's YAML, or JSON) or
an expression such as 'base + ties(a + 0.5*b, density=0.2)'. Models are local folders. The grammar
of recipes is in docs/recipes.md.
"""


class _Documented(argparse.ArgumentParser):
    """A parser whose help ends with all methods; they are loaded when somebody asks."""

    def format_help(self) -> str:
        from merging.engine.describe import all_methods_text

        return f"{super().format_help()}\nmethods:\n{textwrap.indent(all_methods_text(), '  ')}\n"


class _Methods(argparse.Action):
    """``--methods [NAME]``: what a method declares, or the names of all."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option: Any = None) -> None:
        from merging.engine.describe import method_text
        from merging.engine.methods import METHODS, get_method

        try:
            print(method_text(get_method(values)) if values else "\n".join(METHODS))
        except Problem as problem:
            parser.exit(1, _sentence(problem))
        parser.exit(0)


def _parser() -> argparse.ArgumentParser:
    parser = _Documented(
        prog="python -m merging",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    cores = min(len(os.sched_getaffinity(0)), MAX_THREADS)
    add = parser.add_argument
    add("recipe", help="the recipe: a .yaml, .yml or .json file, or an expression")
    add(
        "out",
        type=Path,
        nargs="?",
        help="the folder to write; must not exist or be empty",
    )
    add(
        "--models",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="look for models below this folder too (may be repeated)",
    )
    add(
        "--threads",
        type=_threads,
        default=cores,
        help=f"threads that compute (default {cores}); the bytes are the same for any number",
    )
    add("--seed", type=_seed, help="seed of methods that draw random numbers, for the recipe's")
    add("--device", choices=("cpu", "cuda"), default="cpu", help="where matrices are decomposed")
    add(
        "--unrelated",
        action="store_true",
        help="merge models although they do not come from the foundation",
    )
    add(
        "--larv",
        action="store_true",
        help="scale each vector layer by layer before the merge (arXiv 2602.09413); slow",
    )
    add(
        "--explain", action="store_true", help="say what would happen to the tensors; write nothing"
    )
    add(
        "--as",
        dest="kind",
        choices=(MODEL, "delta", "lora"),
        default=MODEL,
        help="write the model (default), what it adds to its target, or that as one LoRA",
    )
    add("--rank", type=int, help="cut the LoRA down to this rank; a sum of LoRAs needs none")
    add("--energy", type=float, help="cut it to this share of the squared norm, such as 0.99")
    add(
        "--keep-whole",
        action="store_true",
        help="let a LoRA that is cut carry norms, biases and embeddings as whole tensors",
    )
    add(
        "--stored",
        choices=("F32", "BF16", "F16", "F64"),
        default="F32",
        help="what the numbers of a delta are stored in (default F32)",
    )
    add("--quiet", action="store_true", help="no progress bar, no report")
    add(
        "--methods",
        action=_Methods,
        nargs="?",
        metavar="NAME",
        help="print what the method NAME takes, or the names of all methods",
    )
    return parser


def _threads(text: str) -> int:
    """A whole number from 1 to 64, for argparse."""
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= MAX_THREADS:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 1 to {MAX_THREADS}")
    return int(text)


def _seed(text: str) -> int:
    """A whole number from 0 on, for argparse."""
    if not text.isascii() or not text.isdigit() or len(text) > 15:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 0 on, of at most 15 digits")
    return int(text)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code. Problems are one sentence on stderr."""
    # The threads of numpy's BLAS are to sleep at once: they spin, at every start, on our cores.
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.out is None and not options.explain:
        parser.error("the folder OUT is missing")
    if options.kind != "lora" and (options.rank is not None or options.energy is not None):
        parser.error("--rank and --energy belong to --as lora")
    try:
        _run(options)
    except Problem as problem:
        print(_sentence(problem), end="", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; nothing was left behind", file=sys.stderr)
        return 130
    return 0


def _sentence(problem: Problem) -> str:
    # Paths stay whole, so that they can be copied.
    text = textwrap.fill(str(problem), 100, break_on_hyphens=False, break_long_words=False)
    return f"error: {text}\n"


def _run(options: argparse.Namespace) -> None:
    from merging.engine.local import equip_locally
    from merging.engine.notation import read_recipe

    document, path = read_recipe(options.recipe)
    if options.seed is not None:
        document = replace(document, seed=options.seed)
    if options.device == "cuda":
        _check_cuda()
    here = path.resolve().parent if path is not None else Path.cwd()
    roots = [*options.models, here]
    with equip_locally(
        document,
        roots,
        unrelated=options.unrelated,
        device=options.device,
        larv=options.larv,
    ) as local:
        if options.explain:
            from merging.engine.describe import explanation

            print("\n".join(explanation(local.equipment)))
        local.equipment.report.refuse_losses()
        if not options.explain:
            write = _write if options.kind == MODEL else _write_without_target
            write(options, local, path)


def _write(options: argparse.Namespace, local: LocalEquipment, path: Path | None) -> None:
    from merging.engine.run import write_model

    size = local.equipment.model.size
    extra = {**local.extra_files, "recipe.yaml": _recipe_text(options, local, path)}
    with _progress(options, size) as advance:
        write_model(
            local.equipment,
            options.out,
            extra,
            on_bytes=advance,
            threads=options.threads,
            before_rename=local.check_sources,
        )
    if not options.quiet:
        cases = local.equipment.report.cases.items()
        counts = ", ".join(f"{len(names)} {case}" for case, names in cases if names)
        print(f"{options.out}: {size / 1e9:.2f} GB; tensors: {counts}")


def _write_without_target(
    options: argparse.Namespace, local: LocalEquipment, path: Path | None
) -> None:
    """The difference, or one LoRA, with the recipe beside it."""
    from merging.engine.outputs import make_output, write_output

    with _progress(options, len(local.equipment.plan), "tensors") as advance:
        output = make_output(
            local.equipment,
            options.kind,
            rank=options.rank,
            energy=options.energy,
            dtype=options.stored,
            keep_whole=options.keep_whole,
            base=local.equipment.recipe.target,
            on_tensor=advance and (lambda _name: advance(1)),
        )
    with _progress(options, output.model.size) as advance:
        write_output(
            local.equipment,
            output,
            options.out,
            {"recipe.yaml": _recipe_text(options, local, path)},
            on_bytes=advance,
            threads=options.threads,
            before_rename=local.check_sources,
        )
    if not options.quiet:
        print(f"{options.out}:", *output.sentences, sep="\n  ")


def _recipe_text(options: argparse.Namespace, local: LocalEquipment, path: Path | None) -> bytes:
    changed = options.seed is not None or options.larv
    as_given = path is not None and path.suffix.lower() != ".json" and not changed
    text = path.read_text("utf-8") if path is not None and as_given else local.as_yaml()
    return text.encode()


@contextmanager
def _progress(
    options: argparse.Namespace, size: int, unit: str = "B"
) -> Iterator[Callable[[int], object] | None]:
    """A progress bar while something is computed; nothing at all with --quiet."""
    if options.quiet:
        yield None
        return
    from tqdm import tqdm

    written = unit == "B"
    with tqdm(
        total=size, unit=unit, unit_scale=written, leave=written, desc=options.out.name
    ) as bar:
        yield bar.update


def _check_cuda() -> None:
    import torch

    from merging.engine.errors import RecipeError, _

    if not torch.cuda.is_available():
        raise RecipeError(_("No CUDA device can be used here: leave --device out."))


if __name__ == "__main__":
    sys.exit(main())
