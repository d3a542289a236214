"""See to a Chromium for the browser tests: `python tools/browser.py` finds one or installs it, and prints its path.

In this order: $CHROMIUM, a browser on the PATH or where macOS and Windows keep Chrome, the one that Playwright has
downloaded before; and if there is none, Debian's package (as root) or Playwright's own download.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
PLACES = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "C:/Program Files/Google/Chrome/Application/chrome.exe",
    "C:/Program Files (x86)/Google/Chrome/Application/chrome.exe",
)
PACKAGES = ("chromium", "fonts-liberation")                      # without a font a headless page has no text


def find() -> str | None:
    """The path of a Chromium on this machine, or None."""
    candidates = [os.environ.get("CHROMIUM"), *(shutil.which(name) for name in NAMES), *PLACES]
    for path in candidates:
        if path and Path(path).is_file():
            return path
    return playwrights_own()


def playwrights_own() -> str | None:
    """The Chromium that Playwright downloaded for the interpreter running this, or None."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return None
    with sync_playwright() as playwright:
        path = playwright.chromium.executable_path
    return path if Path(path).is_file() else None


def install() -> str | None:
    """Install a Chromium and return its path; None when that did not work (the commands have said why)."""
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    if root and system() == "debian":                            # Ubuntu's package of that name needs snap
        print("Chromium: installing Debian's package for the browser tests", flush=True)
        if not apt_get("install", *PACKAGES):                    # a bare machine has no package lists yet, or old ones
            apt_get("update")
            apt_get("install", *PACKAGES)
    if find() is None:
        print("Chromium: downloading Playwright's own for the browser tests", flush=True)
        libraries = ["--with-deps"] if root else []              # of the system, which root alone can install
        words = [sys.executable, "-m", "playwright", "install", *libraries, "chromium"]
        subprocess.run(words, stdin=subprocess.DEVNULL)
    return find()


def system() -> str:
    """The ID of a Linux distribution ("debian"); empty elsewhere."""
    try:
        return platform.freedesktop_os_release().get("ID", "")
    except OSError:
        return ""


def apt_get(*words: str) -> bool:
    command = ["apt-get", "--quiet", "--quiet", "--yes", "--no-install-recommends", *words]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    return subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL).returncode == 0


def main() -> int:
    path = find() or install()
    if path is None:
        print("Chromium: none could be installed; install Chrome or Chromium, or name one with CHROMIUM=/path/to/it "
              "(on Linux `sudo .venv/bin/playwright install --with-deps chromium` works too)", file=sys.stderr)
        return 1
    print(f"Chromium: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
