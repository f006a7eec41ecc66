"""Methods and reports as lines of plain text, for the command."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .methods import METHODS, Method, Parameter, get_method
from .recipe import WEIGHT
from .report import Report
from .run import Equipment

NAMES_SHOWN = 8


def method_text(method: Method) -> str:
    """What a method declares of itself."""
    lines = [f"{method.name}: {method.formula}", f"    {method.help} ({method.source})"]
    lines.append(f"    Takes {_inputs(method)}.")
    if method.weighted and method.parameter(WEIGHT.name) is None:
        lines.append(f"    weight (float, needed, of each model): {WEIGHT.help}")
    lines += [f"    {parameter_text(parameter)}" for parameter in method.parameters]
    if method.suggested is not None:
        low, default, high = method.suggested
        lines.append(f"    Suggested lambda: {low:g} to {high:g}, such as {default:g}.")
    if method.random:
        lines.append("    Draws random numbers: the same seed gives the same bytes.")
    return "\n".join(lines)


def parameter_text(parameter: Parameter) -> str:
    """``density (float, default 1, from 0 to 1, of each model or of all): what it does``"""
    facts = [parameter.type.__name__]
    facts.append("needed" if parameter.required else f"default {parameter.default}")
    if parameter.minimum is not None or parameter.maximum is not None:
        low = "" if parameter.minimum is None else f"from {parameter.minimum:g} "
        high = "" if parameter.maximum is None else f"to {parameter.maximum:g}"
        facts.append((low + high).strip())
    if parameter.scope == "term":
        facts.append("of each model or of all")
    return f"{parameter.name} ({', '.join(facts)}): {parameter.help}"


def all_methods_text() -> str:
    """`method_text` of every method."""
    return "\n\n".join(method_text(get_method(name)) for name in METHODS)


def _inputs(method: Method) -> str:
    what = "vectors" if method.operates_on == "deltas" else "whole models"
    low, high = method.minimum_terms, method.maximum_terms
    if high is not None and high == low:
        return f"{low} of {what}" if low > 1 else f"one of {what}"
    if high is not None:
        return f"{low} to {high} {what}"
    return f"{what}, at least {low}" if low > 1 else what


def explanation(equipment: Equipment) -> Iterator[str]:
    """Everything that is known of a merge before it is computed, line by line."""
    report = equipment.report
    size = sum(file.size for file in equipment.model.files.values())
    yield f"recipe {equipment.recipe.hash}"
    yield f"{len(equipment.model.files)} file(s), {size / 1e9:.3f} GB"
    if report.collapsed_to is not None:
        yield f"the sum is {report.collapsed_to}, byte for byte"
    for case, names in report.cases.items():
        if names:
            yield f"{case}: {len(names)} tensors: {listed(names)}"
    yield from _particulars(report)


def _particulars(report: Report) -> Iterator[str]:
    for each in report.rules:
        yield f"rule `{each['rule']}`: {each['tensors']} tensors"
    for each in report.shared_rows:
        yield f"{each['term']}: `{each['tensor']}`: {each['rows']} of {each['of']} rows are shared"
    for each in [*report.mapped_rows, *report.taken_rows]:
        yield f"rows by token: {', '.join(f'{key} {value}' for key, value in each.items())}"
    for label, prefix in report.renamed.items():
        sign = "added to" if prefix.startswith("+") else "taken from"
        yield f"{label}: `{prefix[1:]}` is {sign} its names"
    for label, twins in report.tied.items():
        pairs = listed([f"{name} = {twin}" for name, twin in twins.items()])
        yield f"{label}: tied: {pairs}"
    for label, names in report.absent.items():
        yield f"{label} lacks {len(names)} tensors: {listed(names)}"
    for label, names in report.unfounded.items():
        yield f"{label}: not in the foundation, kept from the target: {listed(names)}"
    for label, names in report.left_out.items():
        yield f"{label}: left out by a rule: {listed(names)}"
    if report.removed:
        yield f"left out by a rule: {listed(report.removed)}"
    for label, names in report.dropped.items():
        yield f"{label}: not in the target, left out: {listed(names)}"


def listed(names: Sequence[str]) -> str:
    """The first of ``names``, and how many more there are."""
    more = f", … (+{len(names) - NAMES_SHOWN})" if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more
