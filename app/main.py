"""The server: the Streamlit script of dashboard.py, the read-only run routes beside it, the gate in front of both.

Started by `darts-dash`, or by `streamlit run app/main.py` in the folder of the project.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import streamlit as st
from starlette.middleware import Middleware

from app.gate import LOOPBACK, Gate, link, read_token, refuse_public_bind
from app.stream import routes
from app.words import escaped
from darts_core.errors import BadInput
from darts_core.runs import runs_root

UNKNOWN = "Something on this page failed. The terminal of the dashboard says what; reload the page to go on."
stopping = asyncio.Event()  # set when the server is asked to end, so that open streams let it


@asynccontextmanager
async def lifespan(_: st.App) -> AsyncIterator[dict[str, Any]]:
    _end_streams_on_signals(asyncio.get_running_loop())
    threading.Thread(target=_prepare_the_first_page, daemon=True).start()
    print(f"\n  DARTS Workbench is at  {link(TOKEN, int(st.get_option('server.port')))}\n", flush=True)
    yield {}


def _prepare_the_first_page() -> None:
    """What the first visitor would wait for, done while their browser loads the page: imports, and the recorded runs
    read once."""
    import PIL.Image  # noqa: F401  by Streamlit, for the icon of the page

    import app.board
    import app.live.ending
    import app.live.going_back
    import app.live.starting
    import app.live.steering
    from app.choose import recorded

    app.board.board_js()
    recorded()


def _end_streams_on_signals(loop: asyncio.AbstractEventLoop) -> None:
    """The server waits for open connections before it ends, and an event stream stays open for hours."""
    for number in (signal.SIGINT, signal.SIGTERM):
        before = signal.getsignal(number)

        def end(received: int, frame: FrameType | None, before: Any = before) -> None:
            loop.call_soon_threadsafe(stopping.set)
            if callable(before):
                before(received, frame)

        signal.signal(number, end)


def in_a_sentence(problem: Exception) -> bool:
    """What a visitor sees of an exception that a page let through; Streamlit has logged it in the terminal."""
    st.error(escaped(str(problem)) if isinstance(problem, BadInput) else UNKNOWN, icon=":material/error:")
    return True


try:
    refuse_public_bind(st.get_option("server.address"))
    TOKEN = read_token(runs_root())
except BadInput as problem:
    sys.exit(str(problem))

app = st.App(
    Path(__file__).with_name("dashboard.py"),
    routes=routes(stopping),
    middleware=[Middleware(Gate, token=TOKEN, hosts=(*LOOPBACK, *st.get_option("server.allowedHosts")))],
    lifespan=lifespan,
    on_script_error=in_a_sentence,
)
