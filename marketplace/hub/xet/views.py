"""The routes of Xet ingest. The token of a push opens them, not the access token itself."""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import wraps
from typing import Any, Concatenate, ParamSpec

from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.views.decorators.csrf import csrf_exempt

from marketplace.hub.errors import HubError, forbidden
from marketplace.hub.repositories import find
from marketplace.hub.requests import Caller, answer_to, endpoint, hub_view
from marketplace.hub.xet import spool
from marketplace.hub.xet.frames import frames_response
from marketplace.hub.xet.hashing import is_hash
from marketplace.hub.xet.ingest import Progress, ingest
from marketplace.hub.xet.shards import read_shard
from marketplace.hub.xet.tokens import Permit, make_permit, read_permit
from marketplace.hub.xet.xorbs import BadXorb, chunks_of
from marketplace.models import Scope
from vectors.errors import _
from vectors.tensorfile.errors import Problem

P = ParamSpec("P")
View = Callable[Concatenate[HttpRequest, Permit, spool.Epoch, P], HttpResponseBase]


@hub_view("GET", scope=Scope.WRITE)
def write_token(request: HttpRequest, caller: Caller, repo_id: str, rev: str) -> HttpResponse:
    """``GET /api/models/{id}/xet-write-token/{rev}``: where to upload to, and with which token."""
    find(repo_id, caller).check_writable()
    assert caller.token is not None  # the scope asks for one
    text, expires = make_permit(caller.token, repo_id)
    epoch = spool.current(caller.user.pk)
    url = f"{endpoint(request)}/xet/{epoch.user}/{epoch.number}"
    return JsonResponse(
        {"casUrl": url, "accessToken": text, "exp": expires},
        headers={
            "X-Xet-Cas-Url": url,
            "X-Xet-Access-Token": text,
            "X-Xet-Token-Expiration": str(expires),
            "Cache-Control": "no-store",
        },
    )


def xet_view(view: View[P]) -> Callable[..., HttpResponseBase]:
    """A POST to the address of an epoch, by the user whose it is; errors are answers."""

    @csrf_exempt
    @wraps(view)
    def answer(
        request: HttpRequest, user: int, epoch: int, *args: P.args, **kwargs: P.kwargs
    ) -> HttpResponseBase:
        try:
            if request.method != "POST":
                return HubError(405, _("This address takes POST.")).response()
            shown = request.headers.get("Authorization", "").partition(" ")[2]
            permit = read_permit(shown.strip())
            if permit.caller.user.pk != user:
                raise forbidden(_("This address belongs to somebody else."))
            return view(request, permit, spool.find(user, epoch), *args, **kwargs)
        except HubError as error:
            return error.response()
        except Problem as problem:
            return answer_to(problem)

    return answer


@xet_view
def receive_xorb(
    request: HttpRequest, permit: Permit, epoch: spool.Epoch, name: str
) -> HttpResponse:
    """``POST {cas}/v1/xorbs/default/{hash}``: up to 64 MiB of chunks."""
    if not is_hash(name):
        raise BadXorb(_("The address does not end in the hash of a xorb."))
    spool.check_room()
    return JsonResponse({"was_inserted": epoch.receive(name, chunks_of(request))})


@xet_view
def receive_shard(request: HttpRequest, permit: Permit, epoch: spool.Epoch) -> HttpResponse:
    """``POST {cas}/v1/shards``: all files are stored when this is answered."""
    for _progress in _ingest(request, permit, epoch):
        pass
    return JsonResponse({"result": 1})


@xet_view
def receive_shard_telling(
    request: HttpRequest, permit: Permit, epoch: spool.Epoch
) -> HttpResponseBase:
    """``POST {cas}/v2/shards``: the same, telling line by line how far it is; so clients show what
    went wrong in our words."""
    return frames_response(request, _ingest(request, permit, epoch))


def _ingest(request: HttpRequest, permit: Permit, epoch: spool.Epoch) -> Generator[Progress]:
    permit.check_repository()
    return ingest(owner=permit.caller.user, epoch=epoch, files=read_shard(request))


@csrf_exempt
def not_here(request: HttpRequest, **kwargs: Any) -> HttpResponse:
    """What clients ask for and go on without: chunks other users have, uploads straight to
    storage, a place for their measurements."""
    return HubError(404, _("This site does not offer that.")).response()
