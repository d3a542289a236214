"""A recurrent search small enough for tests: a few hundred tokens of the generated language, a few steps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from darts_core.config import SearchConfig
from darts_core.data.text import Text, load_text
from darts_core.language import LanguageTask

SMALL = {
    "dataset": "markov", "space": "darts-rnn", "nodes": 3, "units": 6, "bptt": 5, "batch": 4, "arch_batch": 3,
    "epochs": 2, "seed": 3, "w_lr": 1.0, "w_lr_min": 0.1, "momentum": 0.0, "w_decay": 5e-7, "clip": 0.25, "a_lr": 0.1,
    "dropout": 0.2, "dropout_hidden": 0.2, "dropout_input": 0.2, "dropout_embedding": 0.2, "dropout_words": 0.1,
    "activation": 0.1, "slowness": 0.1,
}  # fmt: skip


def text(train: int = 130, held_out: int = 100) -> Text:
    whole = load_text("markov")
    return replace(whole, train=whole.train[:train], valid=whole.valid[:held_out], test=whole.test[:held_out])


def config(**changes: Any) -> SearchConfig:
    return SearchConfig.from_dict({**SMALL, **changes})


def task(settings: SearchConfig, dtype: torch.dtype = torch.float64, **sizes: int) -> LanguageTask:
    return LanguageTask(settings, text(**sizes), dtype=dtype)
