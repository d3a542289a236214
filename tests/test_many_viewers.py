"""Twenty viewers of one search: each sees all of it, soon, and the work is done once for all of them.

Files opened and waits are counted; how long it takes on a clock is what benchmarks/viewers.py measures.
"""

from __future__ import annotations

import asyncio
import base64
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from app import stream
from darts_core import events, io, runs
from darts_core.config import PRESETS
from tests import fake_writer

VIEWERS = 20


def test_what_viewers_see_is_younger_than_a_second_however_many_they_are() -> None:
    for viewers in (1, 5, 20, 1000):
        beat = stream.between(viewers)
        worst = 1.25 * beat + stream.POLL  # a beat that was just missed, and a look at the files before it
        assert worst < 1 and stream.until_next(beat, 12.3) <= 1.25 * beat
    assert stream.between(1) == stream.POLL, "a single viewer waits for the files alone"
    assert VIEWERS / stream.between(VIEWERS) <= 50, "messages a second"


@pytest.mark.parametrize("beat", [0.12, 0.4, 0.5])
def test_viewers_who_come_at_any_time_are_served_together(beat: float) -> None:
    woken = {round((now + stream.until_next(beat, now)) / beat, 6) for now in np.linspace(1000, 1000 + beat, 37)}
    assert woken <= {round(turn, 0) for turn in woken}, "at multiples of the beat"
    assert len(woken) <= 3


def test_twenty_viewers_see_every_step_and_open_hardly_more_files_than_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: Counter[str] = Counter()
    plain = io.opened
    space = PRESETS["collapse"].config().search_space()

    def counted(path: str | Path) -> io.FileIO:
        opened[Path(path).name] += 1
        return plain(path)

    async def watched(viewers: int) -> tuple[list[list[int]], list[int]]:
        """Steps that each viewer got, and how many events, of a run that is written meanwhile."""
        name = f"run-{viewers}"
        with runs.RunWriter.create(tmp_path, name, fake_writer.info(name, 60)) as writer:
            source = stream.Feed(tmp_path, name)
            stopping = asyncio.Event()
            got: list[list[int]] = [[] for _ in range(viewers)]
            told = [0] * viewers

            async def view(number: int) -> None:
                async for message in stream.messages(source, stream.Position(0, 0), stopping):
                    if b"event: steps" in message:
                        data = base64.b64decode(message.split(b"data: ")[1])
                        got[number] += np.frombuffer(data, source.reader.layout.dtype)["step"].tolist()
                    if b"event: events" in message:
                        told[number] += message.count(b'"type":"phase"')
                    if b"event: end" in message:
                        return

            watching = [asyncio.create_task(view(number)) for number in range(viewers)]
            opened.clear()
            for number in range(1, 61):
                writer.append(fake_writer.step_of(number, 60, space, {"w_lr": 0.05, "a_lr": 0.1}))
                if number % 20 == 0:
                    writer.append(events.Phase("search", f"at {number}", 60))
                await asyncio.sleep(0.03)
            assert source.viewers == viewers
            writer.append(events.Finished("finished", 60, {}))
        await asyncio.wait_for(asyncio.gather(*watching), 30)
        assert source.viewers == 0
        return got, told

    monkeypatch.setattr(io, "opened", counted)
    got, told = asyncio.run(watched(1))
    alone = opened.total()
    assert got == [list(range(1, 61))] and told == [3]
    got, told = asyncio.run(watched(VIEWERS))
    assert got == [list(range(1, 61))] * VIEWERS and told == [3] * VIEWERS
    assert opened.total() < 2 * alone, f"{opened.total()} files opened for {VIEWERS} viewers, {alone} for one"
