"""The cell over a search as moving pictures: frames painted with Pillow from the same ribbons as the SVG.

A GIF needs nothing else. An MP4 is made of the same frames by the `ffmpeg` program: the system's, or the one that the
package imageio-ffmpeg brings.
"""

from __future__ import annotations

import importlib.util
import io as memory
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from darts_core import io
from darts_core.config import EVALUATE
from darts_core.derive import kept_edges, strongest
from darts_core.errors import BadInput
from darts_core.runs import RunReader
from darts_core.space import CellSpec, SearchSpace
from darts_core.view.layout import Box, cell_layout
from darts_core.view.palette import FILL, INK, KIND_TITLES, LINE, MUTED, PAPER, colours
from darts_core.view.svg import strips

FRAMES = 80  # of a film, however long the search was
RATE = 12  # frames per second
HOLD = 18  # times that the last frame stands
SCALE = 2  # pixels are painted this many times finer, then averaged, so that edges are smooth
HEAD, ROW = 34, 22  # drawing units: above the cells, and per line of the legend
FADED = 0.75  # of the way to paper, for edges that derivation drops


def gif(run: RunReader) -> bytes:
    """An animated GIF that shows itself again and again.

    Raises:
        BadInput: the run has no step, or is not a search.
    """
    frames = [frame.quantize(128, method=Image.Quantize.MEDIANCUT) for frame in painted(run)]
    out = memory.BytesIO()
    times = [1000 // RATE] * (len(frames) - 1) + [HOLD * 1000 // RATE]
    frames[0].save(out, "GIF", save_all=True, append_images=frames[1:], duration=times, loop=0, optimize=False)
    return out.getvalue()


def mp4(run: RunReader, seconds: float = 120.0, most: int = FRAMES) -> bytes:
    """The film as H.264 in an MP4, of an even number of pixels each way.

    Raises:
        BadInput: as `gif`; or ffmpeg is not installed, fails, or takes longer than `seconds`.
    """
    program = ffmpeg()
    with tempfile.TemporaryDirectory() as folder:  # an MP4's index is written last, so it cannot go through a pipe
        target = Path(folder) / "film.mp4"
        frames = list(painted(run, most))
        width, height = (n - n % 2 for n in frames[0].size)
        command = [
            program, "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}",
            "-r", str(RATE), "-i", "-", "-pix_fmt", "yuv420p", "-movflags", "+faststart", str(target),
        ]  # fmt: skip
        raw = b"".join(f.crop((0, 0, width, height)).tobytes() for f in [*frames, *[frames[-1]] * HOLD])
        try:
            done = subprocess.run(command, input=raw, capture_output=True, timeout=seconds, check=False)
        except subprocess.TimeoutExpired as error:
            raise BadInput("export", "mp4", f"ffmpeg took longer than {seconds:g} s", "export gif") from error
        if done.returncode:
            said = (done.stderr.decode("utf-8", "replace").strip().splitlines() or ["no message"])[-1]
            raise BadInput("export", "mp4", f"ffmpeg made nothing ({said[:200]})", "export gif")
        return io.read_bytes(target, 1 << 30)


def ffmpeg() -> str:
    """Where the program is.

    Raises:
        BadInput: it is not installed.
    """
    if found := shutil.which("ffmpeg"):
        return found
    if importlib.util.find_spec("imageio_ffmpeg"):
        from imageio_ffmpeg import get_ffmpeg_exe

        return get_ffmpeg_exe()
    fix = "pip install imageio-ffmpeg (or darts-workbench[film]), or export gif"
    raise BadInput("export", "mp4", "needs the program ffmpeg, which is not installed", fix)


def painted(run: RunReader, most: int = FRAMES) -> Iterator[Image.Image]:
    """RGB pictures of all cells of a run, at most `most` steps of it, the first and the last among them.

    Raises:
        BadInput: the run has no step, or it trains one cell, which does not change.
    """
    space, count = SearchSpace.from_json(run.info["space"], f"run {run.name}"), run.step_count()
    if not count:
        raise BadInput(f"run {run.name}", "step", "no step is recorded", "let it run first")
    held = dict(run.layout.tensors)
    if run.info["config"].get("strategy") == EVALUATE or any(f"mix.{kind}" not in held for kind in space.cells):
        raise BadInput(f"run {run.name}", "", "is not a search: its cell does not change", "export svg or png")
    at = np.unique(np.linspace(0, count - 1, min(most, count)).round().astype(int))
    for index in at:
        record = run.steps(int(index), 1)[0]
        mixes = {kind: np.asarray(record[f"mix.{kind}"], dtype=float) for kind in space.cells}
        yield frame(space, mixes, f"step {int(record['step'])}, epoch {int(record['epoch']) + 1}")


def frame(space: SearchSpace, mixes: dict[str, np.ndarray], words: str) -> Image.Image:
    """One picture: the cells side by side, edges that derivation drops faded, and what each colour means."""
    layouts = {kind: cell_layout(cell) for kind, cell in space.cells.items()}
    ops = list(dict.fromkeys(op for cell in space.cells.values() for op in cell.ops))
    width = int(sum(layout.width for layout in layouts.values()))
    columns = max(1, width // 150)
    legend = ROW * -(-len(ops) // columns)
    tall = int(max(layout.height for layout in layouts.values()))
    picture = Image.new("RGB", (width * SCALE, (HEAD + tall + legend + 10) * SCALE), PAPER)
    pen = ImageDraw.Draw(picture)
    left = 0.0
    for kind, layout in layouts.items():
        title = f"{KIND_TITLES.get(kind, kind)}, {words}" if left == 0 else KIND_TITLES.get(kind, kind)
        pen.text(((left + 18) * SCALE, 10 * SCALE), title, fill=INK, font=_font(14))
        _cell(pen, space.cells[kind], mixes[kind], left, HEAD)
        left += layout.width
    for number, (op, paint) in enumerate(zip(ops, colours(ops), strict=True)):
        x, y = 18 + number % columns * 150, HEAD + tall + ROW * (number // columns)
        pen.rectangle([x * SCALE, (y + 4) * SCALE, (x + 12) * SCALE, (y + 16) * SCALE], fill=paint)
        pen.text(((x + 18) * SCALE, (y + 2) * SCALE), op, fill=MUTED, font=_font(11))
    return picture.resize((picture.width // SCALE, picture.height // SCALE), Image.Resampling.BOX)


def _cell(pen: ImageDraw.ImageDraw, cell: CellSpec, mix: np.ndarray, left: float, top: float) -> None:
    layout = cell_layout(cell)
    kept, paint = kept_edges(cell, strongest(cell, mix)), colours(cell.ops)
    for edge in sorted(range(len(kept)), key=lambda e: kept[e]):  # dropped edges behind the others
        outline, bands = strips(layout.lines[edge], mix[edge])
        pen.polygon(_placed(outline, left, top), fill=FILL, outline=LINE)
        for op, points in bands:
            pen.polygon(_placed(points, left, top), fill=paint[op] if kept[edge] else _pale(paint[op]))
    for box in layout.boxes:
        _box(pen, box, left, top)


def _box(pen: ImageDraw.ImageDraw, box: Box, left: float, top: float) -> None:
    x, y, w, h = box.x + left, box.y + top, box.width, box.height
    corners = [(x - w / 2) * SCALE, (y - h / 2) * SCALE, (x + w / 2) * SCALE, (y + h / 2) * SCALE]
    pen.rounded_rectangle(corners, radius=5 * SCALE, fill=FILL, outline=LINE, width=SCALE)
    name = f"{box.text} {box.sub}".strip()
    pen.text((x * SCALE, y * SCALE), name, fill=INK, font=_font(11 if box.sub else 14), anchor="mm")


def _placed(points: np.ndarray, left: float, top: float) -> Sequence[tuple[float, float]]:
    return [((float(x) + left) * SCALE, (float(y) + top) * SCALE) for x, y in points]


def _pale(paint: str) -> tuple[int, int, int]:
    red, green, blue = (int(paint[i : i + 2], 16) for i in (1, 3, 5))
    return tuple(round(part + (255 - part) * FADED) for part in (red, green, blue))  # type: ignore[return-value]


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size * SCALE)
