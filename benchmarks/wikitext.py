"""A recurrent cell searched on WikiText-2 and trained, beside an LSTM with as many parameters and the same budget.

    python benchmarks/wikitext.py FOLDER                     # train.txt, valid.txt, test.txt (or wiki.*.tokens)
    python benchmarks/wikitext.py FOLDER --tokens 200000 --held-out 50000 --search-epochs 5 --epochs 10

The vocabulary is that of the whole text (33,278 words); of the training text the first --tokens are read, of validation
and test text the first --held-out. The search is first-order DARTS (--backend compiled is faster, where there is a
compiler). Then three language models are trained from scratch, each by the same code, on the same stretches, with the
same rates and the same number of steps: the cell that was found, the released DARTS_V2, and `torch.nn.LSTM` with tied
embeddings and as many layers as bring it nearest to the cell's number of parameters. Each trains once for every rate in
--rates; validation decides which one is told. Beside them: how often each word is in the training text, plus one, as a
prediction that reads nothing.

Perplexity is exp(mean nats per target). `LOG.md` keeps what was found.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from darts_core.config import SearchConfig, preset_named
from darts_core.data.text import Text, load_text
from darts_core.evaluation import evaluation_config
from darts_core.events import Epoch, Result, Sample
from darts_core.genotype import Genotype
from darts_core.language import LanguageTask
from darts_core.language_training import LanguageTraining
from darts_core.nets.fixed import parameters
from darts_core.nets.recurrent import LanguageModel, Masks, Rates
from darts_core.search.bilevel import Host
from darts_core.strategies import strategy_named
from darts_core.zoo import published


class Lstm(nn.Module):
    """`torch.nn.LSTM` where a recurrent cell would be: (x, h, masks) -> its output states, (T, B, n)."""

    def __init__(self, units: int, layers: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(units, units, layers)
        self.after: Tensor | None = None

    def forward(self, x: Tensor, h: Tensor, masks: Masks) -> Tensor:
        x = x if masks.x is None else x * masks.x
        out, (hidden, memory) = self.lstm(x, tuple(h.chunk(2)))
        self.after = torch.cat([hidden, memory])
        return out


class LstmModel(LanguageModel):
    """`net(tokens, carry) -> (Decoded, carry)` as every model here; the carry is (2 * layers, B, n)."""

    def __init__(self, vocabulary: int, units: int, layers: int, rates: Rates) -> None:
        super().__init__(Lstm(units, layers), vocabulary, units, rates)
        self.layers = layers

    def forward(self, tokens: Tensor, carry: Tensor) -> tuple[Any, Tensor]:
        if carry.dim() == 2:  # the state before the first token
            carry = carry.new_zeros(2 * self.layers, *carry.shape)
        said = self.spoken(tokens, carry[0], lambda x, _, masks: self.cell(x, carry, masks))
        return said, self.cell.after  # type: ignore[return-value]


class LstmTask(LanguageTask):
    """The same task with another network."""

    layers = 1

    def network(self, genotype: Genotype) -> Any:
        return LstmModel(self.vocabulary, self.config.units, self.layers, self.rates)


def nearest_layers(vocabulary: int, units: int, wanted: int) -> int:
    """Layers of the LSTM whose number of parameters is nearest to `wanted`."""
    sizes = {k: parameters(LstmModel(vocabulary, units, k, Rates())) for k in range(1, 6)}
    return min(sizes, key=lambda k: abs(sizes[k] - wanted))


def by_frequency(text: Text) -> float:
    """Test perplexity of (count of a word in the training text + 1) / (sum of these)."""
    counts = torch.bincount(text.train, minlength=len(text.vocabulary)).double() + 1
    return math.exp(-float((counts / counts.sum()).log()[text.test].mean()))


def trained(task: LanguageTask, config: SearchConfig, say: Callable[[str], None]) -> dict[str, Any]:
    """Train as `evaluate` does; the curve, and the perplexities of validation and test text at the end."""
    began, training, curve = time.process_time(), LanguageTraining(task, config, Host()), []
    final: dict[str, Any] = {}
    for event in training.run():
        if isinstance(event, Epoch):
            curve.append({k: event.metrics[k] for k in ("train_perplexity", "valid_perplexity")})
            seconds = time.process_time() - began
            train, valid = curve[-1].values()
            say(f"  epoch {event.epoch + 1}: training {train:.1f}, validation {valid:.1f}, {seconds:.0f} s of CPU time")
        if isinstance(event, Result):
            final = {k: v for k, v in event.metrics.items() if "perplexity" in k}
    return {
        "rate": config.w_lr, "parameters": parameters(training.net), "steps": training.step, "curve": curve, **final,
        "cpu_seconds": time.process_time() - began,
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tokens", type=int, default=40_000)
    parser.add_argument("--held-out", type=int, default=10_000)
    parser.add_argument("--units", type=int, default=64)
    parser.add_argument("--batch", type=int, default=10)
    parser.add_argument("--bptt", type=int, default=10)
    parser.add_argument("--momentum", type=float, default=0.9)
    parser.add_argument("--backend", choices=("reference", "fast", "compiled"), default="fast")
    parser.add_argument("--search-epochs", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--rates", type=float, nargs="+", default=[1.0, 2.0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="a JSON file for curve and perplexities")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    say: Callable[[str], None] = lambda words: print(words, flush=True)  # noqa: E731
    whole = load_text("wikitext2", str(given.folder))
    text: Text = replace(
        whole, train=whole.train[: given.tokens], valid=whole.valid[: given.held_out], test=whole.test[: given.held_out]
    )
    small = {
        "dataset": "wikitext2", "path": str(given.folder), "units": given.units, "batch": given.batch,
        "bptt": given.bptt, "momentum": given.momentum,
        "dropout": 0.2, "dropout_hidden": 0.05, "dropout_input": 0.2, "dropout_embedding": 0.1, "clip": 0.25,
        "seed": 0, "threads": given.threads,
    }  # fmt: skip
    rate = given.rates[0]
    found: dict[str, Any] = {"settings": {k: str(v) for k, v in vars(given).items() if k not in ("folder", "out")}}
    config = preset_named("wt2").config(
        **small, epochs=given.search_epochs, w_lr=rate, w_lr_min=rate / 4, a_lr=0.03, a_beta2=0.95,
        backend=given.backend,
    )  # fmt: skip
    task = LanguageTask(config, text)
    found["by frequency"] = by_frequency(text)
    say(f"{task.described()}\nby the frequency of words alone: test perplexity {found['by frequency']:.1f}")
    curve, result, began = [], None, time.process_time()
    for event in strategy_named("darts")(task, config, Host()):
        if isinstance(event, Epoch):
            told = {k: v for k, v in event.metrics.items() if "perplexity" in k}
            curve.append({**told, "entropy": event.probes["entropy"]})
            say(f"search, epoch {event.epoch + 1}: " + ", ".join(f"{k} {v:.3g}" for k, v in curve[-1].items()))
        if isinstance(event, Sample):
            say("  writes: " + " / ".join(event.text[:160].splitlines()))
        if isinstance(event, Result):
            result = event
    assert result is not None
    cell = Genotype.from_json(result.genotype)
    found["search"] = {"cell": cell.text(), "curve": curve, "cpu_seconds": time.process_time() - began}
    say(f"{cell.text()}\n{found['search']['cpu_seconds']:.0f} s of CPU time")
    wanted = parameters(task.network(cell))
    layers = nearest_layers(task.vocabulary, given.units, wanted)
    sides: dict[str, tuple[type[LanguageTask], Genotype]] = {
        "the cell found": (LanguageTask, cell), f"torch.nn.LSTM, {layers} layers": (LstmTask, cell),
        "DARTS_V2": (LanguageTask, published("DARTS_V2_RNN").genotype),
    }  # fmt: skip
    for name, (kind, genotype) in sides.items():
        tried = []
        for rate in given.rates:
            say(f"{name}, rate {rate:g}")
            settings = evaluation_config(
                "wt2", genotype, name,
                {**small, "epochs": given.epochs, "w_lr": rate, "w_lr_min": rate / 10, "dropout_words": 0.0,
                 "test_columns": 10},
            )  # fmt: skip
            own = kind(settings, text)
            if isinstance(own, LstmTask):
                own.layers = layers
            tried.append(trained(own, settings, say))
        found[name] = min(tried, key=lambda t: t["valid_perplexity"])
        best = found[name]
        say(f"{name}: {best['parameters']:,} parameters, test perplexity {best['test_perplexity']:.2f} "
            f"(as the original divides: {best['test_perplexity_as_original']:.2f}), "
            f"{best['cpu_seconds']:.0f} s of CPU time")  # fmt: skip
        if given.out:
            given.out.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
