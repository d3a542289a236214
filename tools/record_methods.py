"""The comparison behind the method cards: `python tools/record_methods.py` makes data/methods/collapse.json anew.

It runs `compare` on the collapse preset (digits with 40 % label noise, S2), which goes on where it was interrupted:
once for the methods and once for cells drawn at random, eight for each seed. Both are kept as one table with where it
comes from, and as text in collapse.md. `make catalogue` then writes what each method did into its card.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from darts_core import tally
from darts_core.drive import commit, versions
from darts_core.runs import runs_root

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "data" / "methods" / "collapse.json"
NAME = "collapse-cures"
METHODS = (
    "darts,max-w,fair-darts,pc-darts,robust-darts,p-darts,gdas,snas,smooth-darts,darts-minus,darts-plus,darts-pt,dr-nas,"
    "beta-darts,proxyless"
)
CHANCE = "collapse-random"  # cells drawn at random, trained as the derived ones are
SETTINGS = ("hessian_every=0", "threads=1", "pace=0")
COMMON = ["--seeds", "0-4", "--preset", "collapse", *(word for pair in SETTINGS for word in ("--set", pair))]
WORDS = {
    NAME: ["compare", "--methods", METHODS, *COMMON, "--set", "random_cells=1", "--name", NAME],
    CHANCE: ["compare", "--methods", "random:trials=1", *COMMON, "--set", "random_cells=8", "--name", CHANCE],
}


def main() -> int:
    for words in WORDS.values():
        done = subprocess.run([sys.executable, "-m", "darts_core", *words], cwd=ROOT)
        if done.returncode:
            return done.returncode
    read = lambda name: json.loads((tally.place(runs_root()) / name / tally.TABLE).read_text("utf-8"))  # noqa: E731
    table, chance = read(NAME), read(CHANCE)
    commands = [" ".join(["python -m darts_core", *words]) for words in WORDS.values()]
    FILE.parent.mkdir(exist_ok=True)
    table |= {name: chance[name] for name in ("band", "band_of")}
    kept = {**table, "made": {"commands": commands, "commit": commit(), "versions": versions()}}
    FILE.write_text(json.dumps(kept, indent=1) + "\n", "utf-8")
    FILE.with_suffix(".md").write_bytes(tally.to_markdown(tally.Tally.from_json(table, FILE)))
    print(f"wrote {FILE.relative_to(ROOT)}; now: make catalogue")
    return 0


if __name__ == "__main__":
    sys.exit(main())
