"""Run a strategy inside a run folder: stages of the start, orders and pauses, checkpoints, signals, failures, the end.

Torch is imported inside `drive` only: the run folder exists, and a page can show it, before that slow import begins.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import traceback
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from darts_core import io
from darts_core.config import EVALUATE, SearchConfig, catalogue, spare_cores
from darts_core.desk import Desk, Say, Signals, Skipped
from darts_core.errors import BadInput, one_line
from darts_core.evaluation import title_of
from darts_core.events import (
    Applied,
    Failure,
    Finished,
    Interrupted,
    Line,
    Order,
    Phase,
    Result,
    Step,
    Trained,
    from_json,
)
from darts_core.genotype import Genotype
from darts_core.runs import Layout, RunReader, RunWriter, epoch_file, step_file

if TYPE_CHECKING:
    from darts_core.language import LanguageTask
    from darts_core.search.state import State
    from darts_core.space import SearchSpace
    from darts_core.tasks import ImageTask

REPLAYED = ("graph", "triton")  # backends of an NVIDIA GPU
REFERENCE_TOO = ("reference", *REPLAYED)  # backends for which the reference's form of a net will do


def new_run(
    root: Path,
    name: str | None,
    config: SearchConfig,
    command: Sequence[str],
    parent: Mapping[str, Any] | None = None,
    title: str = "",
    group: str = "",
) -> RunWriter:
    """A fresh run folder for `config`, open for writing; no torch needed.

    Args:
        group: a name that the runs of one launch share (`--seeds`); empty: it is alone.

    Raises:
        BadInput: a run of this name exists, or the folder cannot be written.
    """
    space = config.search_space()
    title = title or (title_of(config) if config.strategy == EVALUATE else "")
    info = {
        "config": config.to_dict(),
        "space": space.to_json(),
        "seed": config.seed,
        "epochs": config.epochs,
        "parent": dict(parent) if parent else None,
        "versions": versions(),
        "commit": commit(),
        "device": config.device,
        "threads": config.threads or spare_cores(),
        "cpu": platform.processor() or platform.machine(),
        "deterministic": config.device in ("auto", "cpu"),
        "command": list(command),
        "layout": _record_layout(config, space).to_json(),
        **({"title": title[:200]} if title else {}),
        **({"group": group} if group else {}),
    }
    if name:
        return RunWriter.create(root, name, info)
    return RunWriter.create_free(root, f"{config.dataset}-{config.strategy}".replace(".", "-"), info)


def _record_layout(config: SearchConfig, space: SearchSpace) -> Layout:
    """What each step records. An evaluation has no alphas; its mix says which operation each edge has, for pictures."""
    layout = Layout.of(config.step_metrics, space, config.edge_alphas())
    if config.strategy != EVALUATE:
        return layout
    return Layout(layout.metrics, tuple((n, shape) for n, shape in layout.tensors if n.startswith("mix.")))


def versions() -> dict[str, str]:
    """Of Python and the packages that decide numbers."""
    found = {"python": platform.python_version()}
    for package in ("torch", "torchvision", "numpy", "darts-workbench"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def commit() -> str | None:
    """The commit of the clone that this package lies in; None outside a clone or without git."""
    clone = Path(__file__).resolve().parent.parent
    if not (clone / ".git").exists():
        return None
    try:
        found = subprocess.run(["git", "rev-parse", "HEAD"], cwd=clone, capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None


def drive(
    writer: RunWriter,
    config: SearchConfig,
    say: Say = lambda event: None,
    orders: Mapping[int, list[Order]] | None = None,
) -> int:
    """Run or go on with the search in an open run folder, to its end. Closes the folder.

    Args:
        say: told of every event, as it is recorded.
        orders: step -> orders to give there, for repeating a steered run.

    Returns:
        The exit code: 0 finished, stopped or interrupted by a signal; 2 for input that cannot be used (NaN included);
        1 for a fault of ours. The run folder holds the sentence in either case.
    """
    signals = Signals()
    with signals.watched():
        for _ in (course := Drive(writer, config, signals, say, orders or {})):
            pass
    return course.code


Done = Callable[[Any, Any], Generator[Any, None, Any]]  # what a search is given as `Host.done`


class Drive:
    """One search in its run folder, from its start to its end; whoever goes through it decides when it may go on.

    Yields `search.host.Waits`, where the search stands still, and None now and then. `code` is the exit code after
    the last of them. However it ends, the folder holds the sentence and is closed.
    """

    def __init__(
        self,
        writer: RunWriter,
        config: SearchConfig,
        signals: Signals,
        say: Say,
        orders: Mapping[int, list[Order]],
        done: Done | None = None,
    ) -> None:
        """`done` does the work of a search that has others beside it."""
        self.writer, self.config, self.signals, self.say = writer, config, signals, say
        self.given, self.done = orders, done
        self.code = 0
        signals.searching.add(writer.name)

    def tell(self, event: Step | Line) -> None:
        self.writer.append(event)
        self.say(event)

    def __iter__(self) -> Iterator[Any]:
        with self.writer as writer:
            try:
                yield from _search(self)
            except BadInput as error:
                _last_words(writer, self.say, Failure(writer.step, str(error), ""))
                self.code = 2
            except KeyboardInterrupt:
                _last_words(writer, self.say, Interrupted(writer.step, self.signals.wish or "Ctrl-C"))
            except Exception as error:
                if spent := _spent(error, self.config):
                    _last_words(writer, self.say, Failure(writer.step, str(spent), ""))
                    self.code = 2
                    return
                # the page must show a sentence, whatever broke
                message = f"{type(error).__name__}: {one_line(error, 300)}; this is a fault of the program, see the log"
                _last_words(writer, self.say, Failure(writer.step, message, traceback.format_exc()[-20_000:]))
                self.code = 1
            finally:
                self.signals.searching.discard(writer.name)


def _spent(error: Exception, config: SearchConfig) -> BadInput | None:
    """A sentence for a GPU that has no memory left; None for any other error."""
    if type(error).__name__ != "OutOfMemoryError" and "MPS backend out of memory" not in str(error):
        return None
    what = f"is used up by a batch of {config.batch}, {config.channels} channels and {config.cells} cells"
    fix = "set a smaller batch, fewer channels or cells, or precision=bfloat16; or device=cpu"
    return BadInput("GPU", "memory", what, fix)


def _last_words(writer: RunWriter, say: Say, event: Failure | Interrupted) -> None:
    """Record how it ended; on a full disk only say it."""
    try:
        writer.append(event)
    except BadInput:
        pass
    say(event)


def _search(course: Drive) -> Iterator[Any]:
    writer, config, signals, tell, say = course.writer, course.config, course.signals, course.tell, course.say
    tell(Phase("process", f"process {os.getpid()}"))
    import torch

    from darts_core.language import task_of
    from darts_core.nets.fast import covers
    from darts_core.search.host import Host, Snapshot, Waits
    from darts_core.search.state import from_bytes
    from darts_core.strategies import strategy_named

    device = _device(torch, config.device)
    threads = int(writer.info["threads"])
    torch.set_num_threads(threads)
    level = torch.backends.cpu.get_cpu_capability()
    words = f"torch {torch.__version__} on {device}, {threads} CPU threads, {level}"
    if config.strategy == EVALUATE:
        backend = config.backend  # there is no supernet
    else:
        wanted, elsewhere = config.backend, device.type != "cpu" or config.backend in REPLAYED
        if config.of_text and elsewhere and wanted != "reference":
            wanted = "fast"  # a hidden state is carried from step to step: no whole step is replayed
        backend, why = _backend(wanted, _backend_before(writer), device.type)
        if not config.of_text and backend not in REFERENCE_TOO and not covers(config.search_space()):
            backend, why = "reference", " (this space has no faster form)"
        if backend == "compiled" and (cannot := _beyond_the_kernel(config)):
            backend, why = "fast", f" (the compiled one has no {cannot})"
        config = config.with_(backend=backend)
        words += f"; {backend} supernet{why}"
    tell(Phase("torch", words))
    task = task_of(config, device)
    tell(Phase("data", task.described()))

    start, replayed = _start(writer, say, backend)
    if start is not None:
        start.settings = {**start.settings, "backend": backend}
    desk = Desk(writer, signals, {**course.given, **replayed}, say, alone=course.done is None)
    state: State | None = start
    result: Result | None = None
    left = False  # somebody asked to stop, and does not wait for what the cell is worth
    recall = lambda epoch: from_bytes(writer.read_checkpoint(epoch_file(epoch)), epoch_file(epoch))  # noqa: E731
    host = Host(start, desk.orders, desk.waiting, recall)
    if course.done is not None:
        host = replace(host, done=course.done)
    for event in strategy_named(config.strategy)(task, config, host):
        if isinstance(event, Waits):
            yield event
            continue
        if isinstance(event, Snapshot):
            state = event.state
            file = step_file(state.step) if state.index else epoch_file(state.epoch)
            saved = writer.save_checkpoint(file, state.to_bytes(), state.epoch, state.step)
            say(saved)
            if event.reason == "interrupt":
                tell(Interrupted(writer.step, signals.wish))
                return
            continue
        tell(event)
        if isinstance(event, Applied):
            desk.settled(event)
            left |= event.kind == "stop" and event.accepted
        if isinstance(event, Result):
            result = event
    assert state is not None and result is not None, "a strategy ends with a result"
    signals.searching.discard(writer.name)  # everything that counts is recorded; training can start again from there
    summary = {}
    if config.strategy == EVALUATE or not left:
        summary = yield from _evaluate(writer, task, config, state, result, tell, desk.glance)
    tell(Finished("stopped" if result.stopped else "finished", result.step, summary))


def _device(torch: Any, wanted: str) -> Any:
    """The device to compute on; a sentence when the wanted one is not there."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted == "auto":
        return torch.device("cuda" if there["cuda"] else "cpu")
    if not there[wanted]:
        raise BadInput("settings", "device", f"{wanted} is not available on this machine", "choose auto or cpu")
    return torch.device(wanted)


def _backend_before(writer: RunWriter) -> str:
    """How the supernet was computed at the checkpoint that a run goes on from; empty for a new run."""
    found = writer.last_good_checkpoint()
    return _settings(found.data, found.event.file).backend if found.event else ""


def _backend(wanted: str, before: str, device: str) -> tuple[str, str]:
    """How to compute the supernet for the whole life of this run, and a few words where that needs a reason.

    A run goes on as it began, to the last bit. `auto` takes the compiled form once it is built; until then it is built
    in the background, for later searches.
    """
    from darts_core.nets.kernels import build

    if before and wanted in ("auto", before):
        wanted = "fast" if before == "auto" else before
    if wanted in ("reference", "fast"):
        return wanted, ""
    if device == "cuda":
        return ("triton", "") if wanted == "triton" else ("graph", "")
    if device != "cpu":
        return "fast", ""
    if wanted in ("graph", "triton"):
        return "fast", " (whole steps are replayed on NVIDIA GPUs only)"
    if build.compiler() is None:
        return "fast", " (no C++ compiler found: the compiled one is several times faster)"
    if wanted == "auto" and build.ready() is None:
        return "fast", " (the compiled one is being built for later searches)" if build.begin() else ""
    try:
        build.build()
    except BadInput as error:
        return "fast", f" ({error})"
    return "compiled", ""


def _beyond_the_kernel(config: SearchConfig) -> str:
    """What the method wants of the supernet that the compiled form does not have, in words; empty: nothing."""
    from darts_core.nets.compiled import CANNOT
    from darts_core.strategies import STRATEGIES, method_of

    if STRATEGIES[config.strategy].baseline:
        return ""
    method = method_of(config)
    wanted = set(method.net).union(*method.stages)
    return ", ".join(sorted(name.replace("_", " ") for name in wanted & CANNOT))


def _start(writer: RunWriter, say: Say, backend: str) -> tuple[State | None, Mapping[int, list[Order]]]:
    """Where to begin: nowhere yet, at the parent's checkpoint of a branch, or at the last good one of a run resumed."""
    from darts_core.search.state import from_bytes

    found = writer.last_good_checkpoint()
    busy = "train" if writer.info["config"].get("strategy") == EVALUATE else "search"
    for sentence in found.skipped:
        writer.append(Phase(busy, f"a checkpoint cannot be used, the one before it is: {sentence}"))
    if found.event is None and writer.step == writer.first_step - 1:
        return None, {}
    state = from_bytes(found.data, found.event.file) if found.event else None
    fresh_branch = writer.info["parent"] is not None and writer.step == writer.first_step - 1
    if fresh_branch and state is not None:
        state.settings = SearchConfig.from_dict(writer.info["config"]).to_dict()  # the branch's, not its parent's
        return state, {}
    writer.begin_replay(found.step, _around(writer, backend))
    return state, writer.orders_to_replay(found.step)


def _around(writer: RunWriter, backend: str) -> str:
    """What is different around the run now, in words; empty when nothing is."""
    beside = "it shared its passes with other seeds then, which changes the rounding and nothing else"
    shared = [beside] if backend in ("fast", "compiled") and writer.info.get("group") else []  # see `nets/lanes.py`
    then = {**writer.info["versions"], "machine": writer.info["cpu"]}
    now = {**versions(), "machine": platform.processor() or platform.machine()}
    changed = [f"{key} {then.get(key)} then, {now[key]} now" for key in now if then.get(key) != now[key]]
    return ", ".join([*changed, *shared])


def _evaluate(
    writer: RunWriter,
    task: ImageTask | LanguageTask,
    config: SearchConfig,
    state: State,
    result: Result,
    tell: Say,
    look: Callable[[], None],
) -> Generator[None, None, dict[str, Any]]:
    """The discretisation gap and the cells trained from scratch; what an earlier process trained is not done again.

    `look` is called before each training step; it ends the training by raising `Skipped`.
    """
    from darts_core import evaluate, evaluate_text
    from darts_core.language import LanguageTask, task_of

    if config.strategy == EVALUATE:
        if isinstance(task, LanguageTask):
            return evaluate_text.worth(task, config, state, result)
        return evaluate.worth(task, config, state, result)
    from darts_core.search.method import Moment
    from darts_core.search.stepping import supernet_of
    from darts_core.strategies import STRATEGIES, method_of

    lines, _ = writer.reader.events()
    trained = [event for event in map(from_json, lines) if isinstance(event, Trained)]
    on = "on the whole text" if config.of_text else "on clean labels"
    tell(Phase("evaluate", f"the supernet, its pruned form, and cells trained from scratch {on}"))
    clean = task_of(config, task.device, clean=True) if config.label_noise else task
    settings = SearchConfig.from_dict(state.settings)
    genotype = Genotype.from_json(result.genotype)
    mix, supernet = None, lambda: None  # a baseline has no supernet to look at
    if not STRATEGIES[settings.strategy].baseline:
        method = method_of(settings)
        end = Moment("read", state.epoch, 1.0, None, settings.epochs, state.stage, 1.0, space=task.space)
        mix = method.relax(state.alphas, end)
        supernet = lambda: supernet_of(task, method, state.stage, state.built)  # noqa: E731
    if isinstance(task, LanguageTask):
        compared = evaluate_text.compare(task, config, state, mix, genotype, trained, supernet, look)
    else:
        assert not isinstance(clean, LanguageTask), "both are of images"
        compared = evaluate.compare(task, clean, config, state, mix, genotype, trained, supernet, look)
    try:
        for event in compared:
            tell(event)
            trained.append(event)
            yield
    except Skipped:
        pass
    return evaluate.summary(trained)


def branch(
    root: Path,
    parent: RunReader,
    epoch: int,
    changes: Mapping[str, Any],
    name: str | None,
    command: Sequence[str],
    fresh: bool = False,
) -> RunWriter:
    """A new run that goes on from an epoch of `parent` with other settings, open for writing.

    Args:
        epoch: finished epochs of the parent (0: its start).
        fresh: new weights and alphas; only the parent's settings are taken.

    Raises:
        BadInput: no such checkpoint, or a change that alters the net or the alpha layout without `fresh`.
    """
    if fresh:
        config = SearchConfig.from_dict(parent.info["config"], f"run {parent.name}").with_(**changes)
        return new_run(root, name, config, command)
    event = parent.checkpoint_at(epoch)
    settings = settings_in(parent, event.file)
    config = settings.with_(**changes)
    if (config.search_space().to_json(), _net(config)) != (settings.search_space().to_json(), _net(settings)):
        raise BadInput(
            "branch",
            "settings",
            "these change the network or its alphas, so the checkpoint does not fit",
            "add --weights fresh to start anew",
        )
    known = catalogue()["strategies"]
    moved = config.strategy != settings.strategy
    if moved and not all(known.get(name, {}).get("plain") for name in (config.strategy, settings.strategy)):
        what = f"{config.strategy} lays out its network or its alphas in another way than {settings.strategy}"
        raise BadInput("branch", "strategy", what, "add --weights fresh to start anew with its settings")
    if config.epochs <= epoch:
        raise BadInput(
            "branch",
            "epochs",
            f"epoch {epoch} is already the end of {config.epochs} epochs",
            "set more epochs, or an earlier one",
        )
    origin = {"run": parent.name, "epoch": event.epoch, "step": event.step, "sha256": event.sha256}
    writer = new_run(root, name, config, command, origin)
    try:
        writer.adopt_checkpoint(parent, event.file)
    except BaseException:
        writer.close()
        raise
    return writer


def settings_in(run: RunReader, file: str) -> SearchConfig:
    """The settings in force at a checkpoint: those of the start with every steered change until then. No torch needed.

    Raises:
        BadInput: the checkpoint is damaged.
    """
    return _settings(run.read_checkpoint(file), file)


def _settings(data: bytes, file: str) -> SearchConfig:
    metadata, _ = io.check_tensors(data, file)
    about = io.loads(metadata.get("state", "").encode(), file, io.HEADER_LIMIT)
    return SearchConfig.from_dict(about.get("settings", {}) if isinstance(about, dict) else {}, file)


def _net(config: SearchConfig) -> tuple[Any, ...]:
    """The settings that decide the network's tensors."""
    names = ("dataset", "resize", "channels", "cells", "reductions", "stem_multiplier", "stem_stride", "level", "units")
    return tuple(getattr(config, name) for name in names)
