"""The command about text: `generate`. Torch is imported when it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from darts_core.config import EVALUATE
from darts_core.drive import settings_in
from darts_core.errors import BadInput
from darts_core.flags import Runs
from darts_core.reporting import console
from darts_core.runs import RunReader, runs_root

if TYPE_CHECKING:
    from torch import nn

    from darts_core.language import LanguageTask
    from darts_core.mix import Mix


def generate(
    run: Annotated[str, typer.Argument(help="A search on text, or a recurrent cell that was trained.")],
    length: Annotated[int, typer.Option("--length", help="Tokens to write.", min=1, max=100_000)] = 100,
    temperature: Annotated[
        float,
        typer.Option("--temperature", help="Below 1: likelier tokens; above 1: bolder ones.", min=0.01, max=100),
    ] = 1.0,
    start: Annotated[str, typer.Option("--start", help="How the text begins; its words must be known.")] = "",
    seed: Annotated[int, typer.Option("--seed", help="Another number, another text.", min=0)] = 0,
    epoch: Annotated[int | None, typer.Option("--epoch", help="Finished epochs (default: the last saved).")] = None,
    runs: Runs = None,
) -> None:
    """Write text with the language model of a run."""
    net, task, mix = model_of(RunReader(runs_root(runs), run), epoch)
    from darts_core.language import sample

    columns = min(task.config.batch, 16)
    text = sample(net, task.text, mix, length, seed, temperature, start, columns)
    console.print(text, markup=False, soft_wrap=True)


def model_of(reader: RunReader, epoch: int | None = None) -> tuple[nn.Module, LanguageTask, Mix | None]:
    """The language model of a run on text after so many finished epochs (None: as last saved), its task, and the mix of
    a search (None of a cell that was trained).

    Raises:
        BadInput: the run is about images, or has no such checkpoint.
    """
    saved = reader.checkpoints()
    if not saved:
        raise BadInput(f"run {reader.name}", "checkpoint", "none is saved yet", "let it run an epoch first")
    event = saved[-1] if epoch is None else reader.checkpoint_at(epoch)
    config = settings_in(reader, event.file)
    if not config.of_text:
        raise BadInput(f"run {reader.name}", "", "is about images", "generate needs a run on text")
    import torch

    from darts_core.language import language_task
    from darts_core.search.method import Moment
    from darts_core.search.state import from_bytes
    from darts_core.search.stepping import supernet_of
    from darts_core.strategies import method_of

    state = from_bytes(reader.read_checkpoint(event.file), event.file)
    task = language_task(config, torch.device("cpu"))
    if config.strategy == EVALUATE:
        net = task.network(config.genotype())
        net.load_state_dict(state.judged)
        return net, task, None
    method = method_of(config)
    supernet = supernet_of(task, method, state.stage, state.built)
    supernet.load_state_dict(supernet.pack(state.judged))
    moment = Moment("read", state.epoch, 1.0, None, config.epochs, state.stage, 1.0)
    return supernet, task, method.relax(state.alphas, moment)
