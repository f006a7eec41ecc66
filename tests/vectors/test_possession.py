"""Who has which bytes: a question that many files with the same ones do not make longer."""

from __future__ import annotations

from django.contrib.auth.models import User
from pytest_django import DjangoAssertNumQueries

from tests.hub import stock
from vectors.models import Grant, Vector, Version
from vectors.possession import possessed


def test_who_has_a_file_is_asked_of_few_rows(
    owner: User, stranger: User, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    """The same tokenizer is in every vector of a shop."""
    shared, base = stock.blob(), stock.foundation("lab/tiny")
    rows = [stock.vector(f"olive/v{i}", owner, base) for i in range(30)]
    for row in rows:
        assert row.current is not None
        row.current.files.create(path="tokenizer.json", blob=shared)
    with django_assert_num_queries(2):
        assert possessed(stranger, shared.pk) == shared
    Vector.objects.update(visibility="private")
    with django_assert_num_queries(2):
        assert possessed(stranger, shared.pk) is None
    Grant.objects.create(user=stranger, vector=rows[20])
    assert possessed(stranger, shared.pk) == shared
    Version.objects.filter(vector=rows[20]).update(state="withdrawn", withdrawn=rows[0].created)
    assert possessed(stranger, shared.pk) is None
    assert possessed(owner, shared.pk) == shared
