"""The gate in front of a small app: who is let through, who is not, and what the refused ones learn."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.responses import PlainTextResponse

from app.gate import LOOPBACK, Gate, cookie_value, read_token, refuse_public_bind
from darts_core.errors import BadInput

TOKEN = "k" * 43


class Visitor:
    """Asks the gate and the small app behind it, request by request; keeps cookies when told to."""

    def __init__(self, entered: bool = True, host: str = "localhost:8501"):
        self.host = host
        self.cookies = {"darts-8501": cookie_value(TOKEN)} if entered else {}

    def get(
        self, path: str, params: dict[str, str] | None = None, headers: dict[str, str] | None = None
    ) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(GATE)
            async with httpx.AsyncClient(
                transport=transport, base_url=f"http://{self.host}", cookies=self.cookies
            ) as client:
                answer = await client.get(path, params=params, headers=headers)
                self.cookies = dict(client.cookies)
                return answer

        return asyncio.run(ask())

    def talks(self, **headers: str) -> bool:
        """Does the WebSocket open?"""
        cookies = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        sent: list[Any] = []

        async def receive() -> dict[str, str]:
            return {"type": "websocket.connect"}

        async def send(message: Any) -> None:
            sent.append(message)

        named = {"host": self.host, "cookie": cookies, **headers}
        raw = [(name.encode(), text.encode()) for name, text in named.items()]
        scope = {"type": "websocket", "path": "/ws", "headers": raw, "query_string": b"", "subprotocols": []}
        asyncio.run(GATE(scope, receive, send))
        assert sent[0]["type"] in ("websocket.accept", "websocket.close")
        return sent[0]["type"] == "websocket.accept"


async def small_app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
    else:
        await PlainTextResponse("the secret run")(scope, receive, send)


GATE = Gate(small_app, TOKEN, LOOPBACK)


def refused(answer: httpx.Response) -> None:
    assert 400 <= answer.status_code < 500
    assert "secret" not in answer.text
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]


def test_the_link_trades_the_token_for_a_cookie_that_scripts_cannot_read() -> None:
    visitor = Visitor(entered=False)
    answer = visitor.get("/darts/enter", params={"token": TOKEN})
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie and TOKEN not in cookie
    assert visitor.get("/").text == "the secret run"


def test_a_link_followed_from_another_site_arrives_without_a_redirect() -> None:
    foreign = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    answer = Visitor(entered=False).get("/darts/enter", params={"token": TOKEN}, headers=foreign)
    assert answer.status_code == 200 and 'http-equiv="refresh"' in answer.text and "set-cookie" in answer.headers


@pytest.mark.parametrize("token", ["", "k" * 42, "k" * 44, "é" * 43, "x"])
def test_a_wrong_token_gets_one_sentence_and_no_cookie(token: str) -> None:
    answer = Visitor(entered=False).get("/darts/enter", params={"token": token})
    refused(answer)
    assert answer.status_code == 403 and "set-cookie" not in answer.headers
    assert answer.text.count("\n") == 1 and "printed" in answer.text


@pytest.mark.parametrize(
    "path", ["/", "/static/index.js", "/_stcore/health", "/darts/runs/a/history", "/darts/plotly.js"]
)
def test_without_the_cookie_nothing_is_answered(path: str) -> None:
    refused(Visitor(entered=False).get(path))


@pytest.mark.parametrize("value", ["", "x", TOKEN, cookie_value("another")])
def test_a_wrong_cookie_opens_nothing(value: str) -> None:
    refused(Visitor(entered=False).get("/", headers={"cookie": f"darts-8501={value}"}))


def test_the_cookie_of_another_port_is_another_cookie() -> None:
    refused(
        Visitor(entered=False, host="localhost:8502").get("/", headers={"cookie": f"darts-8501={cookie_value(TOKEN)}"})
    )


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8501",
        "localhost.evil.example",
        "a@localhost",
        "localhost:x",
        "",
        "127.0.0.1.nip.io",
    ],
)
def test_a_foreign_host_is_refused_even_with_the_cookie(host: str) -> None:
    refused(Visitor().get("/", headers={"host": host}))


@pytest.mark.parametrize("host", ["localhost:8501", "LOCALHOST:8501", "localhost.:8501"])
def test_our_own_names_are_let_through(host: str) -> None:
    assert Visitor().get("/", headers={"host": host}).text == "the secret run"


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "http://localhost:9999", "null", "http://localhost", "localhost:8501"]
)
def test_a_foreign_origin_is_refused_even_with_the_cookie(origin: str) -> None:
    refused(Visitor().get("/", headers={"origin": origin}))


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_a_page_of_another_port_cannot_embed_ours(site: str) -> None:
    headers = {"sec-fetch-site": site, "sec-fetch-mode": "no-cors", "sec-fetch-dest": "script"}
    refused(Visitor().get("/", headers=headers))


@pytest.mark.parametrize(
    "path", ["/..%2f..%2fetc/passwd", "/darts/runs/..%2f..%2fx/history", "/a/%2e%2e/b", "/a%5c..%5cb", "/a%00b"]
)
def test_a_path_that_leaves_its_folder_is_refused(path: str) -> None:
    refused(Visitor().get(path))


def test_the_socket_is_closed_before_the_handshake_without_the_cookie() -> None:
    assert not Visitor(entered=False).talks()
    assert not Visitor().talks(origin="http://evil.example")
    assert Visitor().talks(origin="http://localhost:8501")


def test_every_answer_forbids_frames_sniffing_and_keeping() -> None:
    headers = Visitor().get("/").headers
    assert headers["x-frame-options"] == "DENY"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"


def test_the_token_is_kept_in_a_private_file_and_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DARTS_TOKEN", raising=False)
    token = read_token(tmp_path / "runs")
    assert len(token) == 43 and read_token(tmp_path / "runs") == token
    assert stat.S_IMODE((tmp_path / "runs" / ".token").stat().st_mode) == 0o600
    (tmp_path / "runs" / ".token").chmod(0o644)
    assert read_token(tmp_path / "runs") != token, "a file that others can read holds no secret"


def test_a_given_token_must_be_a_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DARTS_TOKEN", "short")
    with pytest.raises(BadInput, match="at least 16"):
        read_token(tmp_path)


@pytest.mark.parametrize("address", ["0.0.0.0", "::", None, "192.168.0.7"])
def test_listening_beyond_this_machine_needs_a_token_on_purpose(
    address: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DARTS_TOKEN", raising=False)
    with pytest.raises(BadInput, match="other machines"):
        refuse_public_bind(address)
    monkeypatch.setenv("DARTS_TOKEN", TOKEN)
    refuse_public_bind(address)
