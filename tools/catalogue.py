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


def collapsed(row: Mapping[str, Any]) -> int:
    """How many of a method's cells are skips for four fifths, or more."""
    return sum(o["skips"] >= COLLAPSED * o["edges"] for o in row["outcomes"])


def measured(row: Mapping[str, Any]) -> str:
    """What a method did in a comparison: skips at the end, what collapsed, and accuracy of the cells trained."""
    found, gone = row["outcomes"], collapsed(row)
    skips, edges = " ".join(str(o["skips"]) for o in found), found[0]["edges"]
    accuracies = [o["accuracy"] for o in found if o["accuracy"] is not None]
    counted = f"{gone} of {len(found)} cells collapsed (four fifths skips, or more)" if gone else "no cell collapsed"
    said = f"{len(found)} seeds on digits with 40 % label noise, S2: {skips} skips of {edges}; {counted}"
    if not accuracies:
        return said
    mean, low, high = sum(accuracies) / len(accuracies), min(accuracies), max(accuracies)
    return f"{said}; the derived cell, trained from scratch on clean labels, {mean:.3f} ({low:.3f} to {high:.3f})"


def verdict(row: Mapping[str, Any], darts: Mapping[str, Any]) -> str:
    """What that amounts to beside DARTS on the same seeds, in a sentence; nothing of DARTS itself."""
    seeds, gone = len(row["outcomes"]), collapsed(row)
    if row is darts or not collapsed(darts):
        return ""
    if not gone:
        return "Cures it. "
    return "Does not help. " if gone >= collapsed(darts) else f"Helps on {seeds - gone} of {seeds} seeds. "


def with_measured(found: dict[str, Any]) -> dict[str, Any]:
    """The catalogue with what each method did in the recorded comparison on its card, where there is one."""
    kept = json.loads(MEASURED.read_text("utf-8")) if MEASURED.is_file() else {"rows": []}
    darts = next((row for row in kept["rows"] if row["method"] == "darts"), None)
    for row in kept["rows"]:
        name, _, options = row["method"].partition(":")
        entry = found["strategies"].get(name, {})
        if not (card := entry.get("card")) or not row["outcomes"]:
            continue
        said = "" if entry["baseline"] or darts is None else verdict(row, darts)
        said += (f"With {options}: " if options else "") + measured(row)
        card["measured"] = [*card.get("measured", []), said]
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
