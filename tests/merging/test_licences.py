"""The licence of a mix: what contradicts is found, what is allowed is not scared away from."""

from __future__ import annotations

import itertools

import pytest

from merging.licences import KNOWN, licence_of_mix


def mix(*licences: str):
    return licence_of_mix([(f"lab/{i}", licence) for i, licence in enumerate(licences)])


@pytest.mark.parametrize(
    ("licences", "status", "licence", "commercial", "shareable"),
    [
        (("mit",), "allowed", "mit", True, True),
        (("mit", "mit"), "allowed", "mit", True, True),
        (("mit", "apache-2.0"), "allowed", "apache-2.0", True, True),
        (("cc0-1.0", "cc-by-4.0"), "allowed", "cc-by-4.0", True, True),
        (("unlicense", "mit"), "allowed", "mit", True, True),
        (("apache-2.0", "gpl-3.0"), "allowed", "gpl-3.0", True, True),
        (("cc-by-sa-4.0", "gpl-3.0"), "allowed", "gpl-3.0", True, True),
        (("lgpl-3.0", "agpl-3.0", "mit"), "allowed", "agpl-3.0", True, True),
        (("apache-2.0", "cc-by-nc-4.0"), "labelled", "other", False, True),
        (("cc-by-nc-4.0", "gpl-3.0"), "labelled", "other", False, False),
        (("cc-by-sa-4.0", "cc-by-nc-sa-4.0"), "labelled", "other", False, False),
        (("llama3", "mit"), "labelled", "other", True, True),
        (("llama3", "gpl-3.0"), "labelled", "other", True, False),
        (("mit", ""), "labelled", "other", True, False),
        (("mit", "cc-by-nd-4.0"), "refused", "other", True, False),
    ],
)
def test_what_the_parts_make_of_their_mix(
    licences: tuple[str, ...], status: str, licence: str, commercial: bool, shareable: bool
) -> None:
    found = mix(*licences)
    assert (found.status, found.commercial, found.shareable) == (status, commercial, shareable)
    if shareable:
        assert found.licence == licence
    assert bool(found.reasons) == (status != "allowed")


def test_the_order_of_the_parts_does_not_matter() -> None:
    for pair in itertools.combinations(KNOWN, 2):
        one, other = mix(*pair), mix(*reversed(pair))
        assert (one.status, one.licence, one.commercial, one.shareable) == (
            other.status,
            other.licence,
            other.commercial,
            other.shareable,
        ), pair


def test_a_reason_names_the_part_it_is_about() -> None:
    found = licence_of_mix([("lab/base", "mit"), ("ann/poems", "cc-by-nd-4.0")])
    assert "ann/poems" in str(found.reasons[0])


def test_one_more_restriction_never_allows_more() -> None:
    for name in KNOWN:
        before, after = mix("apache-2.0", "mit"), mix("apache-2.0", "mit", name)
        assert after.commercial <= before.commercial
        assert after.shareable <= before.shareable
