"""Write darts_core/catalogue.json from the registries: `make catalogue`. The dashboard reads it and loads no torch."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from darts_core.derive import COLLAPSED
from darts_core.strategies import catalogue

FILE = Path(__file__).resolve().parent.parent / "darts_core" / "catalogue.json"


MEASURED = FILE.parent.parent / "data" / "methods" / "collapse.json"  # made by tools/record_methods.py


def measured(row: Mapping[str, Any]) -> str:
    """What a method did in a comparison: skips at the end, what collapsed, and accuracy of the cells trained."""
    found = row["outcomes"]
    skips, edges = " ".join(str(o["skips"]) for o in found), found[0]["edges"]
    accuracies = [o["accuracy"] for o in found if o["accuracy"] is not None]
    gone = sum(o["skips"] >= COLLAPSED * o["edges"] for o in found)
    verdict = f"{gone} of {len(found)} cells collapsed (four fifths skips, or more)" if gone else "no cell collapsed"
    said = f"{len(found)} seeds on digits with 40 % label noise, S2: {skips} skips of {edges}; {verdict}"
    if not accuracies:
        return said
    mean, low, high = sum(accuracies) / len(accuracies), min(accuracies), max(accuracies)
    return f"{said}; the derived cell, trained from scratch on clean labels, {mean:.3f} ({low:.3f} to {high:.3f})"


def with_measured(found: dict[str, Any]) -> dict[str, Any]:
    """The catalogue with what each method did in the recorded comparison on its card, where there is one."""
    rows = json.loads(MEASURED.read_text("utf-8"))["rows"] if MEASURED.is_file() else []
    for row in rows:
        card = found["strategies"].get(row["method"], {}).get("card")
        if card and row["outcomes"]:
            card["measured"] = [measured(row)]
    return found


def text() -> str:
    """The catalogue as the file holds it: one value per line, so that a change is easy to see."""
    return json.dumps(with_measured(catalogue()), indent=1, ensure_ascii=False) + "\n"


def main() -> int:
    FILE.write_text(text(), "utf-8")
    print(f"catalogue: wrote {FILE.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
