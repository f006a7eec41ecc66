"""Errors as clients of the hub protocol understand them: a status, a code, one sentence."""

from __future__ import annotations

import re
from collections.abc import Mapping

from django.http import HttpResponse, JsonResponse

from vectors.errors import _, explain
from vectors.tensorfile.errors import Problem

BAD_TOKEN = "Invalid credentials in Authorization header"  # clients compare this very text


class HubError(Exception):
    """An answer that is not a success. ``code`` becomes X-Error-Code, which clients map to their
    exceptions; ``message`` X-Error-Message, which they print."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str = "",
        headers: Mapping[str, str] | None = None,
        **fields: object,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code
        self.headers, self.fields = dict(headers or {}), fields

    def response(self) -> HttpResponse:
        response = JsonResponse({"error": self.message, **self.fields}, status=self.status)
        if self.code:
            response.headers["X-Error-Code"] = self.code
        response.headers["X-Error-Message"] = header_text(self.message)
        for name, value in self.headers.items():
            response.headers[name] = value
        return response


class Renamed(Exception):
    """The repository ``old`` is called ``new`` now."""

    def __init__(self, old: str, new: str) -> None:
        super().__init__(f"{old} is called {new}")
        self.old, self.new = old, new


_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")  # which make a header that no client reads
_PLAIN = str.maketrans({"“": '"', "”": '"', "’": "'", "…": "...", "–": "-", "−": "-"})


def header_text(sentence: str) -> str:
    """``sentence`` as a header may carry it: one line of Latin-1."""
    line = _CONTROL.sub("", " ".join(sentence.split())).translate(_PLAIN)
    return line.encode("latin-1", "backslashreplace").decode("latin-1")[:2000]


def bad_request(problem: Problem | str, **fields: object) -> HubError:
    """400 with the sentence of ``problem``."""
    error = HubError(400, explain(problem) if isinstance(problem, Problem) else problem)
    error.fields = fields
    return error


def repo_not_found(repo_id: str, *, signed_in: bool) -> HubError:
    """No such repository, or none this caller may know of: the two are told apart by nobody."""
    return HubError(
        404 if signed_in else 401,
        _("There is no repository %(id)s here, or it is private and you may not see it.")
        % {"id": repo_id[:200]},
        code="RepoNotFound",
    )


def revision_not_found(repo_id: str, revision: str) -> HubError:
    return HubError(
        404,
        _("%(id)s has no revision %(revision)s.") % {"id": repo_id, "revision": revision[:200]},
        code="RevisionNotFound",
    )


def entry_not_found(repo_id: str, path: str, commit: str) -> HubError:
    """No such file. With the commit, so that clients remember that it is not there."""
    return HubError(
        404,
        _("%(id)s has no file %(path)s.") % {"id": repo_id, "path": path[:200]},
        code="EntryNotFound",
        headers={"X-Repo-Commit": commit},
    )


def gated(message: str, *, signed_in: bool) -> HubError:
    """The repository may be seen but not read yet; ``message`` says how to get it and where."""
    return HubError(403 if signed_in else 401, message, code="GatedRepo")


def forbidden(message: str) -> HubError:
    return HubError(403, message)


def bad_token() -> HubError:
    return HubError(401, BAD_TOKEN)
