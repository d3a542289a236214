"""Choices in a module of the user's own: found, searched, and replaced by their winners."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import darts_core
from darts_core.choices import Choice, ChoiceNet, choice_space, chosen, search_choices
from darts_core.errors import BadInput
from darts_core.mix import Mix
from darts_core.strategies import STRATEGIES

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs/choices.md").read_text("utf-8")
NAMED = [name for name in STRATEGIES if f"`{name}`" in PAGE]


class Blind(nn.Module):
    """A candidate that nothing can be learned through."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 0


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 8), Choice(Blind(), nn.Tanh()), Choice(nn.ReLU(), Blind(), Blind()), nn.Linear(8, 2)
    )


def data(seed: int) -> tuple[Tensor, Tensor]:
    x = torch.randn(200, 4, generator=torch.Generator().manual_seed(seed))
    return x, (x[:, 0] > 0).long()


@pytest.mark.parametrize("strategy", ["darts", "max-w", "proxyless"])
def test_a_search_finds_the_candidates_that_let_the_answer_through(strategy: str) -> None:
    net = model()
    extra = {"every": 1, "warm_up": 0.1} if strategy == "proxyless" else {}
    genotype = search_choices(net, data(1), data(2), strategy, epochs=12, batch=20, w_lr=0.1, **extra)
    small = chosen(net, genotype)
    assert [type(layer).__name__ for layer in small] == ["Linear", "Tanh", "ReLU", "Linear"]  # type: ignore[attr-defined]
    assert isinstance(net[1], Choice), "the module itself stays as it is"  # type: ignore[index]
    assert small(torch.zeros(3, 4)).shape == (3, 2)


def test_a_one_hot_mix_computes_what_the_chosen_module_computes() -> None:
    net = model()
    rows = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    small = nn.Sequential(net[0], nn.Tanh(), nn.ReLU(), net[3])  # type: ignore[index]
    x = torch.randn(5, 4)
    assert torch.allclose(ChoiceNet(net)(x, Mix({"choices": rows}))[0], small(x))
    assert choice_space(net).cells["choices"].legal == ((True, True, False), (True, True, True))


def test_a_choice_outside_a_search_and_a_module_without_one_say_so() -> None:
    assert darts_core.Choice is Choice
    with pytest.raises(BadInput, match="outside a search"):
        model()(torch.zeros(1, 4))
    with pytest.raises(BadInput, match="no Choice"):
        choice_space(nn.Linear(2, 2))
    with pytest.raises(BadInput, match="inside"):
        choice_space(nn.Sequential(Choice(nn.ReLU(), Choice(nn.ReLU(), nn.Tanh()))))


def test_the_page_about_choices_runs_as_written() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stderr
    assert re.fullmatch(r"first -> choice_[012]\nhalve -> choice_[012]\nact -> choice_[012]\n", run.stdout)


@pytest.mark.parametrize("name", NAMED)
def test_every_method_that_the_page_names_searches_choices(name: str) -> None:
    extra = {"every": 1, "warm_up": 0.0} if name == "proxyless" else {}
    genotype = search_choices(model(), data(1), data(2), name, epochs=1, batch=50, **extra)
    assert len(genotype.cells["choices"].nodes) == 2
