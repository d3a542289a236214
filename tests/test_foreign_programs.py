"""Files for other programs, opened by those programs: LaTeX, a PDF reader, Graphviz, ffmpeg (skipped where missing)."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from darts_core.errors import BadInput
from darts_core.export import export
from darts_core.genotype import Genotype, random_genotype
from darts_core.runs import RunReader
from darts_core.space import space_named
from darts_core.view import movie
from darts_core.zoo import published, zoo

SAMPLES = Path(__file__).parent.parent / "data" / "samples"
ARTICLE = "\\documentclass{article}\n\\usepackage{tikz}\n\\begin{document}\n%s\\end{document}\n"


def needs(program: str) -> str:
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not installed")
    return found


def ran(folder: Path, *words: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(words, cwd=folder, capture_output=True, timeout=120, check=False)


def ops_of(cell: Genotype) -> Counter[str]:
    return Counter(gene.op for genes in cell.cells.values() for node in genes.nodes for gene in node)


def cells() -> dict[str, Genotype]:
    """Every released cell, and one of a single input."""
    alone = random_genotype(space_named("nasbench201"), random.Random(1))
    return {name: found.genotype for name, found in zoo().items()} | {"one input": alone}


def test_tikz_draws_each_operation_once_in_a_colour_that_it_defines() -> None:
    for name, cell in cells().items():
        text = export(cell, "tikz", "100% of_$x").decode()
        body = text.replace(r"\{", "").replace(r"\}", "")
        assert body.count("{") == body.count("}") and text.count(r"\begin") == text.count(r"\end") == len(cell.cells)
        drawn = Counter(re.findall(r"\\node\[cell label, .*\{(.*)\};", text.replace(r"\_", "_")))
        assert drawn == ops_of(cell), name
        defined = set(re.findall(r"definecolor\{(\w+)\}", text))
        assert defined >= set(re.findall(r"(?:draw=|edge, )(op\w+)", text)) and r"100\% of\_\$x" in text
        assert all(" " in style for style in re.findall(r"([\w ]+)/\.style", text)), "one word may be a key of TikZ"


@pytest.mark.slow
def test_latex_sets_every_cell_without_a_complaint(tmp_path: Path) -> None:
    latex = needs("pdflatex")
    for number, cell in enumerate(cells().values()):
        (tmp_path / f"c{number}.tex").write_bytes(export(cell, "tikz", "100% of_$x"))
    inputs = "".join(f"\\par\\input{{c{number}.tex}}\\clearpage\n" for number in range(len(cells())))
    (tmp_path / "all.tex").write_text(ARTICLE % inputs, encoding="utf-8")
    done = ran(tmp_path, latex, "-interaction=nonstopmode", "-halt-on-error", "all.tex")
    said = done.stdout.decode("utf-8", "replace")
    if "tikz.sty' not found" in said:
        pytest.skip("this LaTeX has no TikZ")
    assert done.returncode == 0, said[-2000:]
    assert "\n!" not in said and "Overfull" not in said
    if reader := shutil.which("pdftotext"):
        shown = ran(tmp_path, reader, "all.pdf", "-").stdout.decode()
        ops = [op for cell in cells().values() for op in ops_of(cell).elements()]
        wanted = Counter(word for op in ops for word in op.split("_"))  # TeX draws an underscore as a rule
        found = Counter(word for word in shown.split() if word in wanted)
        assert found == wanted


def test_a_pdf_reader_finds_a_page_with_every_operation(tmp_path: Path) -> None:
    reader, painter = needs("pdftotext"), needs("pdftoppm")
    cell = published("DARTS_V2").genotype
    (tmp_path / "cell.pdf").write_bytes(export(cell, "pdf"))
    shown = ran(tmp_path, reader, "cell.pdf", "-").stdout.decode()
    assert Counter(word for word in shown.split() if word in ops_of(cell)) == ops_of(cell)
    assert ran(tmp_path, painter, "-r", "50", "-png", "cell.pdf", "page").returncode == 0
    (page,) = tmp_path.glob("page*.png")
    assert np.asarray(Image.open(page).convert("L")).std() > 5, "an empty page"


def test_graphviz_reads_the_dot_text_edge_by_edge(tmp_path: Path) -> None:
    dot = needs("dot")
    cell = published("NASNet").genotype
    (tmp_path / "cell.dot").write_bytes(export(cell, "dot"))
    plain = ran(tmp_path, dot, "-Tplain", "cell.dot").stdout.decode()
    edges = [line for line in plain.splitlines() if line.startswith("edge")]
    assert Counter(op for line in edges for op in ops_of(cell) if f'" {op} "' in line) == ops_of(cell)
    assert len(edges) == sum(ops_of(cell).values()) + sum(len(genes.output) for genes in cell.cells.values())


def test_ffmpeg_reads_the_film_back_picture_by_picture(tmp_path: Path) -> None:
    try:
        program = movie.ffmpeg()
    except BadInput as error:
        pytest.skip(str(error))
    run = RunReader(SAMPLES, "collapsing")
    frames = [np.asarray(frame, dtype=float) for frame in movie.painted(run, most=5)]
    film = tmp_path / "film.mp4"
    film.write_bytes(movie.mp4(run, most=5))
    tall, wide = (side - side % 2 for side in frames[0].shape[:2])
    done = ran(tmp_path, program, "-loglevel", "error", "-i", str(film), "-f", "rawvideo", "-pix_fmt", "rgb24", "-")
    assert done.returncode == 0, done.stderr
    shown = np.frombuffer(done.stdout, np.uint8).reshape(-1, tall, wide, 3).astype(float)
    assert len(shown) == len(frames) + movie.HOLD
    for ours, theirs in zip(frames, shown, strict=False):
        assert np.abs(ours[:tall, :wide] - theirs).mean() < 5
    assert np.abs(shown[0] - shown[len(frames) - 1]).mean() > np.abs(frames[-1][:tall, :wide] - shown[-1]).mean()
