"""Requests of the hub protocol: who calls, what they may do, and addresses with a %2F in them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, Concatenate, ParamSpec
from urllib.parse import unquote

from django.contrib.auth.models import AnonymousUser
from django.core.exceptions import RequestDataTooBig
from django.http import HttpRequest, HttpResponse, HttpResponseBase, HttpResponseRedirect
from django.views.decorators.csrf import csrf_exempt

from marketplace.accounts.tokens import find_token
from marketplace.hub.errors import HubError, Renamed, bad_request, bad_token, forbidden
from marketplace.hub.limits import spend
from marketplace.models import AccessToken, Scope
from vectors.announced import Conflict, Forbidden, NotFound, TooLarge
from vectors.errors import _
from vectors.tensorfile.errors import Problem

P = ParamSpec("P")
ANYBODY = ""  # the scope of routes that ask for no token
# Half of a surrogate pair, or NUL, in JSON: names that no database looks up.
_UNSTORABLE = re.compile(r"[\ud800-\udfff]|(?<!\\)(?:\\\\)*\\u0000")


@dataclass(frozen=True)
class Caller:
    """Who sends a request: by a token, by the session of a browser, or nobody known."""

    user: Any
    token: AccessToken | None = None

    @property
    def signed_in(self) -> bool:
        return bool(self.user.is_authenticated)


View = Callable[Concatenate[HttpRequest, Caller, P], HttpResponseBase]

_STATUS: tuple[tuple[type[Problem], int], ...] = (
    (Conflict, 409),
    (Forbidden, 403),
    (NotFound, 404),
    (TooLarge, 413),
)


def hub_view(
    *methods: str, scope: str = ANYBODY
) -> Callable[[View[P]], Callable[Concatenate[HttpRequest, P], HttpResponseBase]]:
    """A view of the hub protocol: called with the request and its ``Caller``; errors are answers.

    ``scope`` ``read`` or ``write`` asks for a token that has it. A browser's session stands for its
    user where nothing is written, and nowhere else: these views have no other guard against
    requests forged by other sites.
    """

    def decorate(view: View[P]) -> Callable[Concatenate[HttpRequest, P], HttpResponseBase]:
        @csrf_exempt
        @wraps(view)
        def answer(request: HttpRequest, /, *args: P.args, **kwargs: P.kwargs) -> HttpResponseBase:
            told: dict[str, str] = {}
            try:
                if request.method not in methods:
                    raise HubError(
                        405,
                        _("This address takes %(methods)s.") % {"methods": ", ".join(methods)},
                        headers={"Allow": ", ".join(methods)},
                    )
                caller, told = _admit(request)
                check_scope(caller, scope)
                try:
                    response = view(request, caller, *args, **kwargs)
                except Renamed as renamed:
                    response = _at_its_new_name(renamed, request, caller, view, kwargs)
            except HubError as error:
                response = error.response()
            except RequestDataTooBig:
                response = HubError(413, _("This request is too long.")).response()
            except Problem as problem:
                response = answer_to(problem)
            for name, value in told.items():
                response.headers[name] = value
            return response

        return answer

    return decorate


def _at_its_new_name(
    renamed: Renamed, request: HttpRequest, caller: Caller, view: Any, kwargs: dict[str, Any]
) -> HttpResponseBase:
    """What a repository's former name answers: where it is now. What writes is done there at once,
    because a client cannot send a stream of a push a second time."""
    if request.method in ("GET", "HEAD"):
        old = re.compile(rf"(?<=/){re.escape(renamed.old)}(?=[/?]|$)", re.I)
        address, found = old.subn(renamed.new, _address_of(request), count=1)
        if found:
            return HttpResponseRedirect(address, preserve_request=True)  # 307
    asked = kwargs.get("repo_id") or f"{kwargs.get('namespace')}/{kwargs.get('name')}"
    if asked.lower() == renamed.old.lower():
        where = {"repo_id": renamed.new}
        if "repo_id" not in kwargs:
            where = dict(zip(("namespace", "name"), renamed.new.split("/"), strict=True))
        answer: HttpResponseBase = view(request, caller, **{**kwargs, **where})
        return answer
    raise HubError(
        404,
        _("%(old)s is called %(new)s now.") % {"old": renamed.old, "new": renamed.new},
        code="RepoNotFound",
    )


def _address_of(request: HttpRequest) -> str:
    """Path and query as they were sent: an encoded slash stays one."""
    raw = getattr(request, "scope", {}).get("raw_path")
    if not raw:
        return request.get_full_path()
    query = request.META.get("QUERY_STRING", "")
    path: str = raw.decode("latin-1").partition("?")[0]
    return f"{path}?{query}" if query else path


def answer_to(problem: Problem) -> HttpResponse:
    """The answer that tells ``problem``."""
    error = bad_request(problem)
    for kind, status in _STATUS:
        if isinstance(problem, kind):
            error.status = status
    return error.response()


def caller_of(request: HttpRequest) -> Caller:
    """Who calls. Raises HubError 401 when the request shows a token that opens nothing."""
    shown = request.headers.get("Authorization", "")
    if not shown:
        return Caller(getattr(request, "user", AnonymousUser()))
    kind, _space, text = shown.partition(" ")
    token = find_token(text.strip()) if kind.lower() == "bearer" else None
    if token is None:
        raise bad_token()
    return Caller(token.user, token)


def _admit(request: HttpRequest) -> tuple[Caller, dict[str, str]]:
    """Who calls, and the headers that say how many more requests they have."""
    try:
        caller = caller_of(request)
    except HubError as error:
        error.headers |= spend(request, None)
        raise
    return caller, spend(request, caller)


def check_scope(caller: Caller, scope: str) -> None:
    """Raise HubError unless the caller shows a token that has ``scope``."""
    if scope == ANYBODY:
        return
    if caller.token is None:
        raise HubError(
            401, _("Sign in first: `hf auth login`, or a token in the Authorization header.")
        )
    if scope == Scope.WRITE and caller.token.scope != Scope.WRITE:
        raise forbidden(
            _("The token “%(name)s” may only read. Make one that may write on your tokens page.")
            % {"name": caller.token.name}
        )


def json_body(request: HttpRequest) -> dict[str, Any]:
    """The JSON object that the request carries. Raises HubError 400."""
    try:
        body = json.loads(request.body or b"{}")
        if _UNSTORABLE.search(json.dumps(body, ensure_ascii=False)):
            raise ValueError("half a character, or none")
    except (ValueError, RecursionError) as error:
        raise bad_request(_("The request's body is not JSON.")) from error
    if not isinstance(body, dict):
        raise bad_request(_("The request's body is not a JSON object."))
    return body


def segments_of(request: HttpRequest, decoded: str, skipped: int) -> list[str]:
    """The address without its first ``skipped`` words, each segment decoded by itself.

    ``feat%2Fx/config.json`` is a revision and a file, which only the address as it was sent can
    tell. Servers without it (WSGI) give ``decoded``, split where it has slashes. The words before
    may be joined by encoded slashes too: ``ann%2Fspam-filter``.
    """
    raw = getattr(request, "scope", {}).get("raw_path") if hasattr(request, "scope") else None
    if not raw:
        return decoded.split("/")
    path = raw.decode("latin-1").partition("?")[0]
    segments = [unquote(segment) for segment in path.lstrip("/").split("/")]
    while skipped > 0 and segments:
        skipped -= 1 + segments.pop(0).count("/")
    return segments if segments and skipped == 0 else decoded.split("/")


def endpoint(request: HttpRequest) -> str:
    """This site as its clients call it, without a slash at the end."""
    return request.build_absolute_uri("/").rstrip("/")
