"""Training a recurrent cell from scratch: exact resume, averaging, the divisor, and text that it writes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from small_text import SMALL, text
from typer.testing import CliRunner

from darts_core import net_commands
from darts_core.__main__ import app
from darts_core.config import SearchConfig
from darts_core.data.text_plan import TextPlan
from darts_core.drive import new_run
from darts_core.errors import BadInput
from darts_core.evaluation import evaluation_config
from darts_core.events import Epoch, Order, Phase, Result, Sample, Step, Trained
from darts_core.genotype import Genotype
from darts_core.language import LanguageTask, sample
from darts_core.language_training import score
from darts_core.net_commands import about_text, chosen
from darts_core.nets.recurrent import Rates, RecurrentNetwork
from darts_core.optimise import Averaged, triggered
from darts_core.search.bilevel import Host, Snapshot
from darts_core.search.state import State, from_bytes
from darts_core.strategies import strategy_named
from darts_core.zoo import published

V2 = published("DARTS_V2_RNN").genotype


def config(**changes: Any) -> SearchConfig:
    keys = ("units", "bptt", "batch", "dropout", "dropout_hidden", "dropout_words", "slowness", "activation")
    small = {key: SMALL[key] for key in keys}
    return evaluation_config("text", V2, "V2", {**small, "epochs": 3, "jitter": True, "bptt": 9, **changes})


def task(settings: SearchConfig) -> LanguageTask:
    return LanguageTask(settings, text(train=140))


def events(
    settings: SearchConfig, start: State | None = None, orders: dict[int, list[Order]] | None = None
) -> list[Any]:
    given = dict(orders or {})
    found = strategy_named("evaluate")(task(settings), settings, Host(start, lambda step: given.pop(step, [])))
    return [("snapshot", e.state.to_bytes()) if isinstance(e, Snapshot) else e for e in found]


def test_resuming_equals_never_having_stopped_at_every_step_averaging_included() -> None:
    """The rate is so large that the loss rises, so averaging begins at once."""
    settings = config(w_lr=60.0, w_lr_min=60.0, clip=5.0, patience=1, epochs=4)
    whole = events(settings)
    assert any(isinstance(e, Phase) and "averaged" in e.message for e in whole), "averaging is part of what is tested"
    steps, end = [e for e in whole if isinstance(e, Step)], [e[1] for e in whole if isinstance(e, tuple)][-1]
    for at in range(1, len(steps)):
        part = events(settings, orders={at: [Order("x", "interrupt")]})
        rest = events(settings, start=from_bytes(part[-1][1], "memory"))
        assert [e for e in rest if isinstance(e, Step)] == steps[at:], at
        assert [e[1] for e in rest if isinstance(e, tuple)][-1] == end


def test_an_evaluation_ends_with_the_perplexity_of_the_test_text() -> None:
    found = events(config())
    last, trained = found[-1], next(e for e in found if isinstance(e, Trained))
    assert isinstance(last, Result) and not last.stopped
    assert trained.metrics["test_perplexity"] == pytest.approx(math.exp(last.metrics["test_loss"]))
    epochs = [e for e in found if isinstance(e, Epoch)]
    assert epochs[0].metrics["valid_perplexity"] > epochs[-1].metrics["floor_perplexity"] > 1.6
    assert sum(isinstance(e, Sample) for e in found) == 3


def test_the_mean_of_the_weights_leaves_the_first_step_out() -> None:
    steps = [torch.tensor([float(k * k)]) for k in range(1, 7)]
    averaged = Averaged()
    for step in steps:
        averaged.add({"w": step})
    assert averaged.mean["w"].item() == pytest.approx(sum(float(s) for s in steps[1:]) / 5)


@pytest.mark.slow
def test_the_mean_of_the_weights_is_that_of_torchs_averaged_sgd() -> None:
    torch.manual_seed(0)
    ours = {"w": torch.randn(4, dtype=torch.float64)}
    theirs = torch.nn.Parameter(ours["w"].clone())
    other = torch.optim.ASGD([theirs], lr=0.1, lambd=0.0, t0=0.0, weight_decay=0.0, alpha=0.0)
    averaged = Averaged()
    for _ in range(6):
        grad = torch.randn(4, dtype=torch.float64)
        ours["w"] = ours["w"] - 0.1 * grad
        averaged.add(ours)
        theirs.grad = grad
        other.step()
        torch.testing.assert_close(averaged.mean["w"], other.state[theirs]["ax"])


def test_averaging_begins_when_the_loss_is_above_all_but_the_last_few() -> None:
    falling = [5.0, 4.0, 3.0, 2.0, 1.0]
    assert not triggered(falling, 9.0, 5), "five losses are not more than five"
    assert triggered([*falling, 0.9], 5.1, 5) and not triggered([*falling, 0.9], 4.9, 5)
    assert not triggered([1.0, 2.0, 2.0, 2.0, 2.0, 2.0], 0.99, 5)


def test_perplexity_divides_by_what_is_scored_and_the_originals_by_one_row_more() -> None:
    net = RecurrentNetwork(V2, 8, 6, Rates(0.5, 0.5, 0.5, 0.5, 0.5))
    plan = TextPlan(text(), seed=0, batch=4, arch_batch=4, length=7)
    found = score(net, plan, "test", 2)
    rows = len(text().test) // 2
    assert found["perplexity"] == pytest.approx(math.exp(found["loss"]))
    assert found["perplexity_as_original"] == pytest.approx(math.exp(found["loss"] * (rows - 1) / rows))
    assert score(net, plan, "test", 2) == found and net.training, "no dropout while scoring"
    longer = TextPlan(text(), seed=0, batch=4, arch_batch=4, length=30)
    assert score(net, longer, "test", 2)["loss"] == pytest.approx(found["loss"], rel=1e-5), "the memory is carried"


def test_a_text_is_written_the_same_for_the_same_seed_and_begins_as_asked() -> None:
    torch.manual_seed(0)
    net, said = RecurrentNetwork(V2, 8, 6), text()
    one, two, other = (sample(net, said, None, 20, seed, start="ba di") for seed in (1, 1, 2))
    assert one == two != other and one.startswith("ba")
    with pytest.raises(BadInput, match="not in the vocabulary"):
        sample(net, said, None, 5, 0, start="xyz")


def test_the_darts_text_of_a_recurrent_cell_goes_both_ways() -> None:
    assert V2.text().startswith("Genotype(recurrent=[('sigmoid', 0), ('relu', 1)") and V2.text().endswith(
        "range(1, 9))"
    )
    assert Genotype.parse(V2.text()) == V2
    enas = published("ENAS_RNN").genotype
    assert Genotype.parse(enas.text()) == enas and "concat=[2, 5, 6, 9, 10, 11]" in enas.text()
    with pytest.raises(BadInput, match="not an earlier state"):
        Genotype.parse("Genotype(recurrent=[('tanh', 1)], concat=range(1, 2))")


def test_a_cell_that_was_trained_and_a_search_write_text_on_the_command_line(tmp_path: Path) -> None:
    run = lambda *words: CliRunner().invoke(app, [*words, "--runs", str(tmp_path)], catch_exceptions=False)  # noqa: E731
    tiny = ["--set", "subset=400", "--set", "units=4", "--set", "epochs=1", "--set", "batch=8", "--set", "threads=1"]
    done = run("evaluate", "--genotype", "DARTS_V1_RNN", "--dataset", "markov", *tiny, "--name", "cell")
    assert done.exit_code == 0 and "test perplexity" in done.output, done.output
    done = run("search", "--dataset", "markov", "--space", "darts-rnn", *tiny, "--set", "retrain_epochs=0",
               "--set", "random_cells=0", "--set", "nodes=2", "--name", "found")  # fmt: skip
    assert done.exit_code == 0 and "perplexity" in done.output, done.output
    for name in ("cell", "found"):
        text = run("generate", name, "--length", "30", "--start", "ba di")
        assert text.exit_code == 0 and len(text.output.split()) == 32, text.output


@pytest.mark.parametrize(("asked", "told"), [("DARTS_V2", "DARTS_V2_RNN"), ("darts", "DARTS_V2_RNN"),
                                             ("ENAS", "ENAS_RNN"), ("darts_v1_rnn", "DARTS_V1_RNN")])  # fmt: skip
def test_on_a_text_a_released_name_means_the_recurrent_cell(tmp_path: Path, asked: str, told: str) -> None:
    text = about_text("quick", "markov")
    assert text and about_text("ptb", None) and not about_text("quick", None) and not about_text("quick", "digits")
    cell, label, _ = chosen(tmp_path, asked, None, text)
    assert (cell, label) == (published(told).genotype, told)


def test_a_cell_that_does_not_fit_the_data_is_refused_with_the_one_that_does(tmp_path: Path) -> None:
    drawn, _, _ = chosen(tmp_path, "random:1", None, True)
    assert list(drawn.cells) == ["recurrent"]
    with pytest.raises(BadInput, match="is a cell for images"):
        chosen(tmp_path, "skips", None, True)
    with pytest.raises(BadInput, match="the cell needs images.*DARTS_V2_RNN"):
        evaluation_config("quick", published("DARTS_V2").genotype, "V2", {"dataset": "markov"})
    with pytest.raises(BadInput, match="the cell needs a text"):
        evaluation_config("text", V2, "V2", {"dataset": "digits"})


def test_a_cell_found_on_characters_is_trained_on_characters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched = SearchConfig.from_dict({**SMALL, "dataset": "text", "path": "somewhere.txt", "level": "char"})
    new_run(tmp_path, "found", searched, [])
    monkeypatch.setattr(net_commands, "genotype_of", lambda *_: V2)
    _, _, kept = chosen(tmp_path, None, "found")
    assert kept == {"dataset": "text", "path": "somewhere.txt", "level": "char"}
    assert evaluation_config("quick", V2, "cell", kept).level == "char"
