"""Write darts_core/catalogue.json from the registries: `make catalogue`. The dashboard reads it and loads no torch."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from darts_core.strategies import catalogue

FILE = Path(__file__).resolve().parent.parent / "darts_core" / "catalogue.json"


def text() -> str:
    """The catalogue as the file holds it: one value per line, so that a change is easy to see."""
    return json.dumps(catalogue(), indent=1, ensure_ascii=False) + "\n"


def main() -> int:
    FILE.write_text(text(), "utf-8")
    print(f"catalogue: wrote {FILE.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
