"""Signing in as ``hf auth login`` does it: a device code, polled until somebody approves it.

These two addresses know no caller. Errors have OAuth's form (RFC 6749, 5.2), not the hub's.
"""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from marketplace.accounts import devices
from marketplace.accounts.devices import OAuthError
from marketplace.accounts.limits import address_of, within
from marketplace.hub.requests import endpoint
from marketplace.models import Scope
from vectors.errors import Refusal, explain

DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
REFRESH_GRANT = "refresh_token"
# Programs by their client id; others are known by what they call themselves. Neither is proof.
PROGRAMS = {"26be6b09-91c5-47da-9861-d2d2bb7a7e36": "hf auth login"}
# Of one address. A device polls twelve times a minute.
BEGINNINGS = {"limit": 30, "seconds": 600}
POLLS = {"limit": 240, "seconds": 60}


@csrf_exempt
@never_cache
@require_POST
def device(request: HttpRequest) -> HttpResponse:
    """``POST /oauth/device``: a code for the device and one for its user. Any client may ask."""
    address = address_of(request)
    if not within(f"device:{address}", **BEGINNINGS):
        return _error("slow_down", "Too many sign-ins from this address. Wait ten minutes.", 429)
    agent = " ".join(request.headers.get("User-Agent", "").split())
    program = PROGRAMS.get(request.POST.get("client_id", ""))
    told = f"{program}, {agent}" if program else agent
    words = request.POST.get("scope", "").split()
    writes = not words or any(word.endswith("-repos") and word != "read-repos" for word in words)
    device_code, login = devices.begin_login(
        client=f"{address} {told}", scope=Scope.WRITE if writes else Scope.READ
    )
    page = f"{endpoint(request)}/device"
    return JsonResponse(
        {
            "device_code": device_code,
            "user_code": login.user_code,
            "verification_uri": page,
            "verification_uri_complete": f"{page}?code={login.user_code}",
            "expires_in": int(devices.LOGIN_LASTS.total_seconds()),
            "interval": devices.INTERVAL,
        }
    )


@csrf_exempt
@never_cache
@require_POST
def token(request: HttpRequest) -> HttpResponse:
    """``POST /oauth/token``: the token of an approved device, or a new one for one that ends."""
    if not within(f"token:{address_of(request)}", **POLLS):
        return _error("slow_down", "Too many requests from this address.", 429)
    grant = request.POST.get("grant_type", "")
    try:
        return JsonResponse(_granted(grant, request.POST))
    except OAuthError as error:
        return _error(error.code, error.description)
    except Refusal as refusal:
        return _error("access_denied", explain(refusal))


def _granted(grant: str, form: Any) -> dict[str, Any]:
    if grant == DEVICE_GRANT:
        return devices.fetch_token(form.get("device_code", ""))
    if grant == REFRESH_GRANT:
        return devices.renew_token(form.get("refresh_token", ""))
    raise OAuthError("unsupported_grant_type", "Ask with a device code or a refresh token.")


def _error(code: str, description: str, status: int = 400) -> HttpResponse:
    response = JsonResponse({"error": code, "error_description": description}, status=status)
    if status == 429:
        response.headers["Retry-After"] = "60"
    return response
