"""`darts-dash`: the dashboard on a free port of this machine, its link printed, a first search already moving."""

from __future__ import annotations

import argparse
import os
import socket
import sys
import threading
import time
import tomllib
import webbrowser
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from app import process
from app.gate import link, read_token
from darts_core import io
from darts_core.config import preset_named
from darts_core.errors import BadInput
from darts_core.runs import runs_root

PROJECT = Path(__file__).parent.parent
FIRST_PORT = 8501
FIRST_SEARCH = "collapse"


def main(arguments: Sequence[str] | None = None) -> None:
    """Starts the dashboard and stays until it is stopped (Ctrl-C); searches go on without it."""
    asked = _parser().parse_args(arguments)
    if asked.runs:
        os.environ["DARTS_RUNS"] = str(Path(asked.runs).expanduser().resolve())
    try:
        root = runs_root()
        os.environ["DARTS_TOKEN"] = read_token(root)  # the server, in this process, reads the same one
        if not (asked.no_search or os.environ.get("NO_SEARCH", "") not in ("", "0")):
            first = process.start(preset_named(FIRST_SEARCH).watched().to_dict(), root)
            print(f"  A first search is starting: {first.name}. NO_SEARCH=1 leaves it out.", flush=True)
        _serve(root, asked.port, browser=has_browser() and not asked.no_browser)
    except BadInput as problem:
        sys.exit(str(problem))
    except KeyboardInterrupt:
        print("\n  The dashboard has ended. Searches go on; start it again to see them.")


def free_port(first: int, tries: int = 100) -> int:
    """The first port from `first` on that nobody listens on. Raises BadInput when there is none."""
    for port in range(first, min(first + tries, 65536)):
        with closing(socket.socket(socket.AF_INET)) as probe:
            if os.name != "nt":
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise BadInput("darts-dash", "port", f"no port from {first} on is free", "stop another server, or give --port")


def server_options(path: Path) -> dict[str, Any]:
    """Every option of a Streamlit config.toml under its dotted name."""

    def flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
        for name, value in table.items():
            if isinstance(value, dict):
                yield from flat(value, f"{prefix}{name}.")
            else:
                yield f"{prefix}{name}", value

    return dict(flat(tomllib.loads(path.read_text(encoding="utf-8"))))


def has_browser() -> bool:
    """Is there a screen to open a browser on?"""
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _serve(root: Path, first_port: int, browser: bool) -> None:
    from streamlit.web import bootstrap

    import app.stream  # noqa: F401  a second of imports now, and none between asking for a port and taking it

    port = free_port(first_port)
    # Streamlit reads config.toml from the working folder; ours is passed whole, so that any folder will do.
    options = server_options(PROJECT / ".streamlit" / "config.toml") | {"server.port": port}
    bootstrap.load_config_options(options)
    from app.main import app as dashboard

    sys.argv = [str(PROJECT / "app" / "main.py")]
    door = _door(root, link(os.environ["DARTS_TOKEN"], port)) if browser else None
    if door is not None:
        threading.Thread(target=_open_when_up, args=(port, door), daemon=True).start()
    try:
        dashboard.run(config=options)
    finally:
        if door is not None:
            door.unlink(missing_ok=True)


def _door(root: Path, address: str) -> Path | None:
    """A private page that leads to the link: a browser started with the link itself would show the token to `ps`."""
    path = root / ".open.html"
    page = f'<meta http-equiv="refresh" content="0;url={address}"><a href="{address}">DARTS Workbench</a>'
    try:
        io.atomic_write(path, page.encode())  # 0600
    except BadInput:
        return None
    return path


def _open_when_up(port: int, door: Path) -> None:
    for _ in range(300):
        with closing(socket.socket(socket.AF_INET)) as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                webbrowser.open(door.as_uri())
                return
        time.sleep(0.1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="darts-dash", description=__doc__, allow_abbrev=False)
    parser.add_argument("--port", type=int, default=FIRST_PORT, help="first port to try (default: %(default)s)")
    parser.add_argument("--runs", metavar="DIR", help="folder of the runs (default: data/runs of the project)")
    parser.add_argument("--no-search", action="store_true", help="do not start a first search (as NO_SEARCH=1)")
    parser.add_argument("--no-browser", action="store_true", help="do not open a browser")
    return parser


if __name__ == "__main__":
    main()
