"""The documentation's example of a method of one's own: its file and line are put into a copy, and it runs there."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_the_documented_method_is_added_in_one_file_and_one_line_and_searches(tmp_path: Path) -> None:
    file, line = re.findall(r"```python\n(.*?)```", (ROOT / "docs/your-own-method.md").read_text("utf-8"), re.S)
    shutil.copytree(ROOT / "darts_core", tmp_path / "darts_core", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "tools", tmp_path / "tools", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "darts_core/methods/cooling.py").write_text(file, "utf-8")
    table = tmp_path / "darts_core/strategies.py"
    text = table.read_text("utf-8")
    first = "from darts_core.methods.darts import darts\n"
    entry = '    "darts": Entry(bilevel(darts), darts),\n'
    assert text.count(first) == 1 and text.count(entry) == 1
    text = text.replace(first, "from darts_core.methods.cooling import cooling\n" + first).replace(entry, entry + line)
    table.write_text(text, "utf-8")

    def run(*words: str) -> str:
        own = {**os.environ, "PYTHONPATH": str(tmp_path), "DARTS_RUNS": str(tmp_path / "runs"), "OMP_NUM_THREADS": "1"}
        done = subprocess.run([sys.executable, *words], capture_output=True, text=True, cwd=tmp_path, env=own)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("tools/catalogue.py")
    listed = json.loads(run("-m", "darts_core", "methods", "--json"))["strategies"]["cooling"]
    assert [option["name"] for option in listed["options"]] == ["end", "weight"] and listed["card"][
        "title"
    ] == "Cooling"
    sets = [f"--set={pair}" for pair in ("end=0.1", "weight=0.5", "subset=240", "retrain_epochs=0", "random_cells=0")]
    words = ("search", "--preset", "tiny", "--strategy", "cooling", "--with", "loss-stop", "--epochs", "2", "--json")
    told = json.loads(run("-m", "darts_core", *words, *sets).splitlines()[-1])
    assert told["state"] == "finished" and told["genotype"]["space"] == "tiny"
