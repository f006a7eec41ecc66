"""Former names of vectors: each leads to its vector until the owner publishes another there."""

from __future__ import annotations

from vectors.models import FormerName, Vector


def once_called(namespace: str, name: str) -> Vector | None:
    """The vector that had this id before; None where none had."""
    row = (
        FormerName.objects.filter(namespace__iexact=namespace, name__iexact=name)
        .select_related("vector__owner", "vector__current", "vector__foundation", "vector__cover")
        .first()
    )
    return row.vector if row is not None else None


def remember(vector: Vector, name: str) -> None:
    """Let the name that the vector gives up lead to it; in the transaction that renames it."""
    forget(vector.namespace, name)
    FormerName.objects.create(vector=vector, namespace=vector.namespace, name=name)


def forget(namespace: str, name: str) -> None:
    """The id is used by another vector, or by the same one again: it leads nowhere else now. Nobody
    but its owner can do that: a repository's id begins with their name."""
    FormerName.objects.filter(namespace__iexact=namespace, name__iexact=name).delete()
