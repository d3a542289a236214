"""The gate: one ASGI middleware in front of all that the server answers: pages, assets, WebSocket and run routes.

A loopback address keeps other machines out, but not the other users of this one, nor the web pages they open
(DNS rebinding, a page on another local port). So every request must name one of our hosts, come from our own
origin, and carry a cookie that only the printed link hands out. Checked in this order, before anything is read.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Iterable, Sequence
from http import HTTPStatus
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from darts_core import io
from darts_core.errors import BadInput

ENTER = "/darts/enter"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
CLOSED = (
    "This dashboard opens with its own link only: go to the terminal where it was started and "
    "open the address printed there, the one with /darts/enter?token= in it."
)

# What a page of ours may load: its own server and nothing else. Streamlit needs inline styles, evaluated
# chart code and blob scripts (custom components); frames of any kind are refused in both directions.
CONTENT_POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self'",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": CONTENT_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Gate:
    """Lets a request through when its host, origin and cookie are ours; any other gets 4xx and a sentence."""

    def __init__(self, app: ASGIApp, token: str, hosts: Sequence[str]) -> None:
        self.app = app
        self.token = token
        self.hosts = frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        answer = self._answer(scope)
        if answer is None:
            await self.app(scope, receive, _with_headers(send))
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})  # before the handshake: the server answers 403
        else:
            await answer(scope, receive, _with_headers(send))

    def _answer(self, scope: Scope) -> Response | None:
        """The gate's own answer to this request; None lets it through."""
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        name, port = _name_and_port(host)
        if name not in self.hosts:
            return _refuse(HTTPStatus.FORBIDDEN, "This server answers under localhost and 127.0.0.1 only.")
        if not _from_here(headers, host):
            return _refuse(HTTPStatus.FORBIDDEN, "This server does not answer requests made by other web pages.")
        if _leaves_its_folder(scope["path"]):
            return _refuse(HTTPStatus.BAD_REQUEST, "This address has '..' or a backslash in it; no page here does.")
        cookie = cookie_name(port)
        if scope["type"] == "http" and scope["path"] == ENTER:
            return self._enter(scope, headers, cookie)
        expected = cookie_value(self.token)
        if not any(hmac.compare_digest(value, expected) for value in _cookies(headers, cookie)):
            return _refuse(HTTPStatus.FORBIDDEN, CLOSED)
        return None

    def _enter(self, scope: Scope, headers: Headers, cookie: str) -> Response:
        if scope["method"] not in ("GET", "HEAD"):
            return _refuse(HTTPStatus.METHOD_NOT_ALLOWED, CLOSED)
        offered = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if not hmac.compare_digest(offered.encode(), self.token.encode()):
            return _refuse(HTTPStatus.FORBIDDEN, CLOSED)
        if headers.get("sec-fetch-site") == "cross-site":
            # A redirect would still count as the other site's request, and a strict cookie stays at home then.
            answer = Response('<meta http-equiv="refresh" content="0;url=/">', media_type="text/html")
        else:
            answer = RedirectResponse("/", status_code=HTTPStatus.SEE_OTHER)
        answer.set_cookie(cookie, cookie_value(self.token), httponly=True, samesite="strict", path="/")
        return answer


def cookie_name(port: int | None) -> str:
    """Browsers share cookies between the ports of a host; the port in the name keeps two dashboards apart."""
    return f"darts-{port or 80}"


def cookie_value(token: str) -> str:
    """What the cookie holds: derived from the token, so that the cookie does not tell the link."""
    return hmac.new(token.encode(), b"darts dashboard cookie", hashlib.sha256).hexdigest()


def link(token: str, port: int) -> str:
    """The address to open once; it trades the token for the cookie."""
    return f"http://127.0.0.1:{port}{ENTER}?token={token}"


def refuse_public_bind(address: str | None) -> None:
    """Listening beyond this machine needs a token that the user chose to give out. Raises BadInput."""
    if address not in LOOPBACK and not os.environ.get("DARTS_TOKEN"):
        raise BadInput(
            "dashboard",
            "server.address",
            f"{address or 'every interface'} can be reached from other machines",
            "use darts-dash or --server.address 127.0.0.1, or set DARTS_TOKEN to a long secret and server.allowedHosts",
        )


def read_token(folder: Path) -> str:
    """The token of the dashboards on this folder of runs: $DARTS_TOKEN, else the file `.token` in it (0600, made here).

    Kept in a file so that an open page survives a restart of the server. A file that others can read, or that
    belongs to someone else, is not used; where none can be written the token lives as long as this process.
    Raises BadInput when $DARTS_TOKEN is too short to be a secret.
    """
    given = os.environ.get("DARTS_TOKEN", "")
    if given and (len(given) < 16 or not given.isascii() or not given.isprintable()):
        raise BadInput(
            "environment", "DARTS_TOKEN", "it is no secret", "give at least 16 plain characters, or unset it"
        )
    return given or _kept_token(folder / ".token") or secrets.token_urlsafe(32)


def _kept_token(path: Path) -> str | None:
    try:
        if not path.exists():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            io.atomic_write(path, secrets.token_urlsafe(32).encode())  # 0600
        with io.opened(path) as file:
            found = os.fstat(file.fileno())
            private = os.name == "nt" or (found.st_uid == os.getuid() and not found.st_mode & 0o077)
            kept = io.read_at(file, 0, 200).decode("ascii", "replace") if private else ""
    except (OSError, BadInput):
        return None  # a folder that we may only read
    return kept if len(kept) == 43 else None  # 32 random bytes as token_urlsafe writes them


def _refuse(status: HTTPStatus, sentence: str) -> Response:
    return PlainTextResponse(sentence + "\n", status_code=status)


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers[name] = value
            headers.setdefault("Cache-Control", "no-store")
        await send(message)

    return sending


def _name_and_port(host: str) -> tuple[str | None, int | None]:
    """The two parts of a Host header; no name when it is not a plain host."""
    try:
        parts = urlsplit(f"//{host}")
        port = parts.port
    except ValueError:
        return None, None
    plain = parts.hostname is not None and parts.netloc == host and "@" not in host
    return (parts.hostname.rstrip(".") if plain and parts.hostname else None), port


def _from_here(headers: Headers, host: str) -> bool:
    """False for what another page asked for: a foreign Origin, or a sub-resource that the browser marks as foreign."""
    origin = headers.get("origin")
    if origin is not None and origin not in (f"http://{host}", f"https://{host}"):
        return False
    foreign = headers.get("sec-fetch-site") in ("cross-site", "same-site")  # same-site: another port of this machine
    navigates = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
    return not foreign or navigates


def _leaves_its_folder(path: str) -> bool:
    return "\\" in path or "\0" in path or ".." in path.split("/")


def _cookies(headers: Headers, name: str) -> Iterable[str]:
    for line in headers.getlist("cookie"):
        for pair in line.split(";"):
            key, _, value = pair.strip().partition("=")
            if key == name and value.isascii():
                yield value
