"""What the pages say in numbers, and that nothing of a run can become markup."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt

from app.words import about, clock, described, escaped, heading, noise, preset_of, progress, result
from darts_core.config import PRESETS
from tests.fake_writer import info

APP = Path(__file__).resolve().parent.parent / "app"


@pytest.mark.parametrize(
    "text",
    [
        "plain words",
        "a_lr * 2 _is_ **bold**",
        "<script>alert(1)</script>",
        "![x](http://evil.example/x.png)",
        "[x](javascript:alert(1))",
        "# title",
        "- item",
        "1. item",
        "> quote",
        "`code` ~~gone~~ | table |",
        "$x$ :red[r] :material/home:",
        "&lt; &amp; \\ back",
        "    indented",
    ],
)
def test_markdown_of_an_escaped_text_is_the_text(text: str) -> None:
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(escaped(text))
    assert [token.type for token in tokens] == ["paragraph_open", "inline", "paragraph_close"]
    children = tokens[1].children or []
    assert {child.type for child in children} <= {"text", "text_special"}
    assert "".join(child.content for child in children) == " ".join(text.split())


def test_every_special_character_of_markdown_is_escaped() -> None:
    specials = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
    assert escaped(specials) == "".join("\\" + character for character in specials)


@pytest.mark.parametrize(
    ("seconds", "said"), [(0, "0:00"), (7.4, "0:07"), (751, "12:31"), (3723, "1:02:03"), (-5, "0:00")]
)
def test_clock(seconds: float, said: str) -> None:
    assert clock(seconds) == said


@pytest.mark.parametrize(
    ("seconds", "said"), [(20, "about 20 s"), (1800, "about 30 min"), (7200, "about 2 h"), (None, "needs a GPU")]
)
def test_rough_times(seconds: float | None, said: str) -> None:
    assert about(seconds) == said


def status(**changes: Any) -> dict[str, Any]:
    return {"state": "running", "step": 312, "total_steps": 900, "rate": 18.0, "silent_s": 0.1} | changes


def test_progress_says_what_is_known() -> None:
    assert progress(status()) == "step 312 of 900, 18.0 steps/s, 0:33 left"
    assert progress(status(total_steps=None, rate=0.0)) == "step 312"
    assert progress(status(silent_s=4.2)).endswith("last update 4 s ago")
    assert progress(status(state="paused", silent_s=60.0)) == "step 312 of 900"
    assert progress(status(state="starting", phase="torch")) == "loading PyTorch"


def test_label_noise_is_said_whenever_there_is_some() -> None:
    assert noise({"label_noise": 0.0}, preset=True) is None
    assert noise({"label_noise": 0.4}, preset=True) == (
        "40 % of the search labels are replaced at random, on purpose. Of such searches 30 of 30 collapsed; with clean "
        "labels 1 of 70 did."
    )
    assert "tells whether" in (noise({"label_noise": 0.4}, collapsed=True) or "")
    assert "true labels" in (noise({"label_noise": 0.4}) or "")


def test_a_preset_is_recognised_whatever_its_seed() -> None:
    for name, preset in PRESETS.items():
        assert preset_of(preset.config(seed=7).to_dict()) == name
    assert preset_of(PRESETS["tiny"].config(epochs=3).to_dict()) is None


def test_a_run_is_described_in_one_line_and_headed_by_its_title_or_preset() -> None:
    facts = info("x", 100)
    assert described(facts) == "darts on digits, space s2 with 3 nodes, 4 cells, 40 epochs, seed 0"
    settings = PRESETS["recurrent"].config()
    text = facts | {"config": settings.to_dict(), "space": settings.search_space().to_json()}
    assert described(text) == "darts on markov, space darts-rnn with 4 nodes, 32 units, 10 epochs, seed 0"
    branch = facts | {"parent": {"run": "y", "epoch": 3, "step": 24, "sha256": "0"}}
    assert "branched from y after 3 epochs" in described(branch)
    mine = {"config": facts["config"] | {"parts": "beta,skip-stop", "space": "own"}, "space": {"name": "wide"}}
    assert described(facts | mine).startswith("darts + beta + skip-stop on digits, space wide with 3 nodes")
    assert heading(facts) == "Test run x"
    assert heading(facts | {"title": "x"}) == PRESETS["collapse"].title
    branch = facts | {"title": "x", "parent": {"run": "one", "epoch": 3}}
    assert heading(branch) == "Branch of one", "half a search on noisy labels is not the preset that was measured"


@pytest.mark.parametrize("path", sorted(APP.rglob("*.py")), ids=lambda path: path.name)
def test_no_page_can_be_made_to_show_markup_of_a_run(path: Path) -> None:
    """No raw HTML, and no Streamlit chart where the live page ticks."""
    source = path.read_text("utf-8")
    assert not re.search(r"unsafe_allow_html|st\.html|components\.v1", source)
    if path.name == "live.py":
        calls = {ast.unparse(node.func) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)}
        assert not calls & {"st.plotly_chart", "st.graphviz_chart", "st.exception"}


def test_a_run_on_text_ends_with_perplexities_and_the_floor() -> None:
    metrics = {"valid_perplexity": 1.7712, "floor_perplexity": 1.6494}
    events = [
        {"type": "epoch", "metrics": metrics},
        {"type": "trained", "role": "derived", "metrics": {"test_perplexity": 1.7}},
        {"type": "trained", "role": "random", "metrics": {"test_perplexity": 1.69}},
        {"type": "trained", "role": "random", "metrics": {"test_perplexity": 1.72}},
    ]
    said = result(events)
    assert said[0] == "Perplexity on the validation text: 1.77. No model can be below 1.65 on this language."
    assert said[1].endswith("the derived cell reaches a perplexity of 1.70 on the test text.")
    assert said[2].endswith("reach a perplexity of 1.69 to 1.72 on the test text.")


def test_a_training_says_what_its_network_is_worth_and_costs_and_nothing_of_a_search() -> None:
    collapse = {"derived_skips": 2, "derived_edges": 8, "level": "healthy"}
    summary = {"test_accuracy": 0.953, "parameters": 2642, "multiply_adds": 51_234, "latency_ms": 2.14}
    told = [{"type": "epoch", "metrics": {}, "collapse": collapse}, {"type": "finished", "summary": summary}]
    (said,) = result(told, fixed=True)
    assert "95.3 % of the test images" in said and "2,642 parameters" in said and "51,234 multiply-adds" in said
    del summary["test_accuracy"]
    (said,) = result([told[0], {"type": "finished", "summary": {**summary, "valid_accuracy": 0.9}}], fixed=True)
    assert "90.0 % of the held-out training images" in said
