"""Sentences of the pages: numbers, times and states in words. What comes from a run is data, never markup."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from darts_core.config import EVALUATE, PRESETS
from darts_core.genotype import Genotype
from darts_core.own_space import OWN
from darts_core.space import state_words
from darts_core.view import tables
from darts_core.view.palette import KIND_TITLES

STATES = {
    "starting": ("starting", "blue"),
    "running": ("running", "green"),
    "paused": ("paused", "violet"),
    "finished": ("finished", "green"),
    "stopped": ("stopped", "gray"),
    "failed": ("failed", "red"),
    "interrupted": ("interrupted", "red"),
    "silent": ("silent", "gray"),
    "corrupt": ("cannot be read", "red"),
}
PHASES = {  # what a run without a step is busy with
    "process": "a process of its own has started",
    "torch": "loading PyTorch",
    "data": "preparing the data",
    "search": "making the first step",
    "train": "making the first step",
}
SLOW = 2.0  # seconds without anything new, from which the page says so


def escaped(text: str) -> str:
    """`text` such that Markdown shows exactly its characters."""
    folded = " ".join(text.split())
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", folded)


def sentence(message: str) -> str:
    """A message of a process as a sentence: a capital at its start, a full stop at its end, no "search:" before it."""
    said = " ".join(message.split()).removeprefix("search: ").removeprefix("evaluate: ")
    return said[:1].upper() + said[1:] + ("" if said.endswith((".", "!", "?")) or not said else ".")


def clock(seconds: float) -> str:
    """0:07, 12:31, 1:02:03."""
    whole = max(0, int(seconds + 0.5))
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def about(seconds: float | None) -> str:
    """A rough time in words: "about 20 s", "about 30 min", "needs a GPU"."""
    if seconds is None:
        return "needs a GPU"
    if seconds < 100:
        return f"about {seconds:.0f} s"
    return f"about {seconds / 60:.0f} min" if seconds < 5400 else f"about {seconds / 3600:.0f} h"


def progress(status: Mapping[str, Any]) -> str:
    """ "step 312 of 900, 18.0 steps/s, 0:33 left", with what is known of it."""
    if status["state"] == "starting":
        return PHASES.get(status["phase"], PHASES["process"])
    step, total, rate = status["step"], status["total_steps"], status["rate"]
    parts = [f"step {step:,} of {total:,}" if total else f"step {step:,}"]
    if status["state"] == "running":
        if rate:
            parts.append(f"{rate:.1f} steps/s")
        if rate and total and total > step:
            parts.append(f"{clock((total - step) / rate)} left")
        if status["silent_s"] > SLOW:
            parts.append(f"last update {status['silent_s']:.0f} s ago")
    return ", ".join(parts)


def preset_of(config: Mapping[str, Any]) -> str | None:
    """The preset that a configuration is, whatever its seed and pace; None when something else was changed."""
    free = ("seed", "threads", "device", "backend", "pace")
    for name, preset in PRESETS.items():
        known = preset.config().to_dict()
        if all(config.get(key, value) == value for key, value in known.items() if key not in free):
            return name
    return None


def heading(info: Mapping[str, Any]) -> str:
    """The title that a run was given, else that of its preset, else its name; of a branch what it is a branch of."""
    if info["title"] != info["name"]:
        return info["title"]
    if info["parent"]:
        return f"Branch of {info['parent']['run']}"
    preset = preset_of(info["config"])
    return info["name"] if preset is None else PRESETS[preset].title


def described(info: Mapping[str, Any]) -> str:
    """What a run searches, in one line: "darts on digits, space s2 with 3 nodes, 4 cells, 40 epochs, seed 0"."""
    config = info["config"]
    if config.get("strategy") == EVALUATE:
        cell = config.get("label") or "a cell"
        parts = [f"{cell} trained from scratch on {config.get('dataset', 'unknown images')}"]
        size = ("units",) if "recurrent" in info["space"].get("cells", {}) else ("cells", "channels")
        parts += [f"{config[key]} {key}" for key in (*size, "epochs") if key in config]
        return ", ".join([*parts, f"seed {info['seed']}"])
    sizes = ("units",) if "recurrent" in info["space"].get("cells", {}) else ("cells",)  # else stacked
    known = {key: config[key] for key in ("strategy", "dataset", "space", *sizes, "epochs") if key in config}
    worn = filter(None, str(config.get("parts", "")).split(","))
    method = " + ".join([str(known.get("strategy", "search")), *worn])
    parts = [f"{method} on {known.get('dataset', 'unknown images')}"]
    if "space" in known:
        space = info["space"].get("name", OWN) if known["space"] == OWN else known["space"]
        parts.append(f"space {space}" + (f" with {config['nodes']} nodes" if config.get("nodes") else ""))
    parts += [f"{known[key]} {key}" for key in (*sizes, "epochs") if key in known]
    if info["parent"]:
        parts.append(f"branched from {info['parent']['run']} after {info['parent']['epoch']} epochs")
    return ", ".join([*parts, f"seed {info['seed']}"])


def percent(share: float, digits: int = 0) -> str:
    return f"{100 * share:.{digits}f} %"


def noise(config: Mapping[str, Any], preset: bool = False, collapsed: bool = False) -> str | None:
    """The announcement of label noise; None for a search on clean labels.

    Args:
        preset: it is the search that was measured with and without the noise (`PRESETS["collapse"]`).
        collapsed: it has collapsed by now.
    """
    share = config.get("label_noise") or 0
    if not share:
        return None
    said = f"{percent(share)} of the search labels are replaced at random, on purpose"
    if preset:
        return f"{said}. Of such searches 30 of 30 collapsed; with clean labels 1 of 70 did."
    if collapsed:
        return f"{said}, and this search has collapsed. The same on clean labels tells whether the noise is why."
    return f"{said}; accuracies on test images are measured with the true labels."


def in_words(genotype: Genotype) -> str:
    """A cell for those who cannot see its picture, a sentence per node."""
    return " ".join(in_sentences(genotype))


def in_sentences(genotype: Genotype) -> list[str]:
    """ "Normal cell, node 0: skip_connect of two cells back plus sep_conv_3x3 of one cell back." """
    said = []
    for kind, cell in genotype.cells.items():
        for node, genes in enumerate(cell.nodes):
            terms = " plus ".join(f"{gene.op} of {state_words(gene.source, cell.inputs)}" for gene in genes)
            said.append(f"{KIND_TITLES.get(kind, kind)}, node {node}: {terms or 'nothing'}.")
    return said


def result(events: Sequence[Mapping[str, Any]], fixed: bool = False) -> list[str]:
    """What a finished search found, in sentences with numbers. `fixed`: a given cell was trained, nothing searched."""
    said = []
    epoch = next((event for event in reversed(events) if event["type"] == "epoch"), None)
    if epoch is not None and "valid_perplexity" in epoch["metrics"]:
        return _text_result(events, epoch)
    ends = [event["summary"] for event in events if event["type"] == "finished"]
    if fixed and ends and "multiply_adds" in ends[-1]:
        return [trained_alone(ends[-1])]
    if epoch is not None and not fixed:
        found = epoch["collapse"]
        cell = "normal cell" if "normal" in epoch["genotype"]["cells"] else "cell"
        said.append(
            f"{found['derived_skips']} of {found['derived_edges']} edges of the derived {cell} are skip "
            f"connections ({found['level']})."
        )
    trained = tables.trained(events)
    derived, random = trained.get("derived"), trained.get("random")
    if derived:
        cell = "the cell" if fixed else "the derived cell"
        said.append(f"Trained from scratch, {cell} reaches {_spread(derived)} on test images.")
    if derived and random:
        cells = "a random cell" if random.count == 1 else f"{random.count} random cells"
        said.append(f"For comparison, {cells} of the same space, trained the same way: {_spread(random)}.")
    return said


def trained_alone(summary: Mapping[str, Any]) -> str:
    """What one cell is worth that was trained from scratch, and what its network costs."""
    on, images = ("test", "test images") if "test_accuracy" in summary else ("valid", "held-out training images")
    right = percent(summary.get(f"{on}_accuracy", 0.0), 1)
    return (
        f"Trained from scratch, this cell's network names {right} of the {images} rightly. It has "
        f"{summary['parameters']:,} parameters and makes {summary['multiply_adds']:,} multiply-adds per image "
        f"(in convolutions and linear layers); one image took {summary['latency_ms']:.1f} ms on the machine that "
        "trained it."
    )


def _text_result(events: Sequence[Mapping[str, Any]], epoch: Mapping[str, Any]) -> list[str]:
    """The same of a run on text: perplexities instead of accuracies."""
    floor = epoch["metrics"].get("floor_perplexity")
    lowest = f" No model can be below {floor:.2f} on this language." if floor else ""
    said = [f"Perplexity on the validation text: {epoch['metrics']['valid_perplexity']:.2f}.{lowest}"]
    by_role: dict[str, list[float]] = {}
    for event in events:
        if event["type"] == "trained" and "test_perplexity" in event["metrics"]:
            by_role.setdefault(event["role"], []).append(event["metrics"]["test_perplexity"])
    for role, words in (("derived", "the derived cell reaches"), ("random", "random cells of the same space reach")):
        if found := by_role.get(role):
            span = " to ".join(dict.fromkeys(f"{x:.2f}" for x in (min(found), max(found))))
            said.append(f"Trained from scratch, {words} a perplexity of {span} on the test text.")
    return said


def _spread(accuracies: tables.Spread) -> str:
    low, high = accuracies.low, accuracies.high
    return percent(low, 1) if percent(low, 1) == percent(high, 1) else f"{percent(low, 1)} to {percent(high, 1)}"


def amount(number: Any) -> str:
    """A setting's value as people write it."""
    return f"{number:g}" if isinstance(number, float) else str(number)
