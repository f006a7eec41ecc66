"""The engine as a command: ``python -m merging RECIPE.yaml OUT_DIR``."""

from __future__ import annotations

import argparse
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from vectors.tensorfile.errors import Problem

if TYPE_CHECKING:
    from merging.engine.methods import Parameter


def _default(parameter: Parameter) -> str:
    return "needed" if parameter.required else f"default {parameter.default}"


def _parser() -> argparse.ArgumentParser:
    from merging.engine.methods import METHODS

    lines = []
    for method in METHODS.values():
        lines.append(f"  {method.name}: {method.formula}\n      {method.help} ({method.source})")
        lines.extend(
            f"      {p.name} ({p.type.__name__}, {_default(p)}): {p.help}"
            for p in method.parameters
        )
    parser = argparse.ArgumentParser(
        prog="python -m merging",
        description="Equip a model: merge checkpoints and LoRA adapters by a recipe in mergekit's "
        "YAML. Models are local folders.",
        epilog="methods:\n" + "\n".join(lines),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recipe", type=Path, help="the recipe, a YAML file")
    parser.add_argument("out", type=Path, help="the folder to write; must not exist or be empty")
    parser.add_argument(
        "--models",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="look for models below this folder too (may be repeated)",
    )
    parser.add_argument(
        "--threads", type=_count, default=2, help="threads that compute (default 2)"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar, no report")
    return parser


def _count(text: str) -> int:
    """A whole number from 1 to 64, for argparse."""
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= 64:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 1 to 64")
    return int(text)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code. Problems are one sentence on stderr."""
    options = _parser().parse_args(arguments)
    try:
        _run(options)
    except Problem as problem:
        # Paths stay whole, so that they can be copied.
        text = textwrap.fill(str(problem), 100, break_on_hyphens=False, break_long_words=False)
        print(f"error: {text}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; nothing was left behind", file=sys.stderr)
        return 130
    return 0


def _run(options: argparse.Namespace) -> None:
    from tqdm import tqdm

    from merging.engine.errors import RecipeError, _
    from merging.engine.local import equip_locally
    from merging.engine.mergekit import read_yaml
    from merging.engine.run import write_model

    try:
        text = options.recipe.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(
            _("%(file)s cannot be read: %(reason)s."), file=str(options.recipe), reason=str(error)
        ) from error
    roots = [*options.models, options.recipe.resolve().parent]
    with equip_locally(read_yaml(text), roots) as local:
        report = local.equipment.report
        size = local.equipment.model.size
        extra: dict[str, bytes | Path] = {**local.extra_files, "recipe.yaml": text.encode()}
        with tqdm(
            total=size, unit="B", unit_scale=True, desc=options.out.name, disable=options.quiet
        ) as bar:
            write_model(
                local.equipment, options.out, extra, on_bytes=bar.update, threads=options.threads
            )
        if not options.quiet:
            counts = ", ".join(
                f"{len(names)} {case}" for case, names in report.cases.items() if names
            )
            print(f"{options.out}: {size / 1e9:.2f} GB; tensors: {counts}")
            for label, names in report.dropped.items():
                print(f"  {label}: not in the target, left out: {', '.join(names[:8])}")


if __name__ == "__main__":
    sys.exit(main())
