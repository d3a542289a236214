"""Colours: one table of operations for every ribbon, chart, export and notebook.

Okabe-Ito with two changes, so that no two operations are confused under any of the three colour deficiencies: `none` is
a dark grey, and the 5x5 separable convolution a light green. Vermilion belongs to skip alone: it is never the colour
of a loss, a warning, a mark or the theme, so that a page turning orange can only mean collapse.
"""

from __future__ import annotations

from collections.abc import Sequence

from darts_core.errors import unknown

SKIP_COLOUR = "#D55E00"  # reserved

# Candidates of a `Choice`, by their number: no meaning of their own.
CHOICE_COLOURS = (
    "#4477AA", "#66CCEE", "#228833", "#CCBB44", "#AA3377", "#BBBBBB", "#332288", "#44AA99",
    "#999933", "#882255", "#6699CC", "#DDCC77", "#AA4499", "#225555", "#7F7F5F", "#99DDFF",
)  # fmt: skip

OP_COLOURS: dict[str, str] = {
    "none": "#5F6368",
    "max_pool_3x3": "#56B4E9",
    "avg_pool_3x3": "#0072B2",
    "skip_connect": SKIP_COLOUR,
    "sep_conv_3x3": "#009E73",
    "sep_conv_5x5": "#6BBF59",
    "dil_conv_3x3": "#CC79A7",
    "dil_conv_5x5": "#E69F00",
    "sep_conv_7x7": "#7A5195",
    "conv_7x1_1x7": "#8C6D31",
    "noise": "#B7A99A",
    "nor_conv_1x1": "#88CCEE",
    "nor_conv_3x3": "#117733",
    "sharp_avg_pool_3x3": "#4E6E9E",
    "sharp_dil_conv_3x3": "#E0A6C8",
    "sharp_dil_conv_5x5": "#F2C14E",
    "flood_conv_3x3": "#2F8F9D",
    "flood_conv_5x5": "#1F5C66",
    "dil_flood_conv_3x3": "#9B4F96",
    "choke_conv_3x3": "#B5D99C",
    "dil_choke_conv_3x3": "#C9B3E6",
    "mbconv_3x3_e3": "#A6DBA0",
    "mbconv_3x3_e6": "#1B7837",
    "mbconv_5x5_e3": "#9ECAE1",
    "mbconv_5x5_e6": "#2171B5",
    "mbconv_7x7_e3": "#DCC7E6",
    "mbconv_7x7_e6": "#762A83",
    **{f"choice_{n}": paint for n, paint in enumerate(CHOICE_COLOURS)},
    "tanh": "#0B6E8A",
    "relu": "#8C6BB1",
    "sigmoid": "#C2A500",
    "identity": SKIP_COLOUR,  # the skip connection of a recurrent cell: the two never stand in one picture
}

# What an operation does, in the few words that a label or a tooltip has room for.
OP_MEANING: dict[str, str] = {
    "none": "no connection: passes zeros",
    "max_pool_3x3": "largest value in a 3x3 window",
    "avg_pool_3x3": "mean of a 3x3 window",
    "skip_connect": "passes its input on",
    "sep_conv_3x3": "3x3 separable convolution",
    "sep_conv_5x5": "5x5 separable convolution",
    "dil_conv_3x3": "3x3 dilated convolution (sees 5x5)",
    "dil_conv_5x5": "5x5 dilated convolution (sees 9x9)",
    "sep_conv_7x7": "7x7 separable convolution",
    "conv_7x1_1x7": "1x7, then 7x1 convolution",
    "noise": "noise instead of its input",
    "nor_conv_1x1": "1x1 convolution",
    "nor_conv_3x3": "3x3 convolution",
    "sharp_avg_pool_3x3": "mean of a 3x3 window, zeros around the image included",
    "sharp_dil_conv_3x3": "3x3 dilated convolution, then a plain one",
    "sharp_dil_conv_5x5": "5x5 dilated convolution, then a plain one",
    "flood_conv_3x3": "3x3 separable convolution, 4 times as wide inside",
    "flood_conv_5x5": "5x5 separable convolution, 4 times as wide inside",
    "dil_flood_conv_3x3": "3x3 dilated convolution, 4 times as wide inside",
    "choke_conv_3x3": "3x3 separable convolution, 32 channels inside",
    "dil_choke_conv_3x3": "3x3 dilated convolution, 32 channels inside",
    **{f"mbconv_{k}x{k}_e{e}": f"inverted residual, {k}x{k}, {e} times as wide" for k in (3, 5, 7) for e in (3, 6)},
    **{f"choice_{n}": f"candidate {n} of a choice" for n in range(16)},
    "tanh": "squashes each number to -1 to 1",
    "relu": "cuts negative numbers off",
    "sigmoid": "squashes each number to 0 to 1",
    "identity": "leaves each number as it is",
}

KIND_TITLES: dict[str, str] = {
    "normal": "Normal cell",
    "reduce": "Reduction cell",
    "recurrent": "Recurrent cell",
    "chain": "Chain of blocks",
    "choices": "Choices",
}

# Colours of methods and runs where several are compared: none of an operation, each at least 3 : 1 on white and on
# `#0E1117`. Dashes and labels tell them apart too.
RUN_COLOURS = ("#7765DD", "#12878D", "#B0485F", "#7A7A1E", "#3F79B8", "#8A6A9E")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")

# Neutral inks of pictures that stand alone on a light ground (files, notebooks); pages take theirs from the theme.
PAPER = "#FFFFFF"
INK = "#262730"  # text: 14.6 : 1 on paper
MUTED = "#5B5F6B"  # second text: 6.4 : 1 on paper
LINE = "#C9CCD3"  # outlines of boxes
FILL = "#F3F4F7"  # inside of boxes
FONT = "'Source Sans 3', 'Source Sans Pro', 'Segoe UI', 'Helvetica Neue', Arial, sans-serif"


def colour(op: str) -> str:
    """The colour of an operation, as `#RRGGBB`.

    Raises:
        BadInput: the operation is not in the table.
    """
    if op not in OP_COLOURS:
        raise unknown("palette", "operation", op, OP_COLOURS)
    return OP_COLOURS[op]


def colours(ops: Sequence[str]) -> list[str]:
    """The colours of a space's operations, in its column order."""
    return [colour(op) for op in ops]


def rgba(hex_colour: str, alpha: float) -> str:
    """`#RRGGBB` with an opacity from 0 to 1, in the form that Plotly takes."""
    red, green, blue = (int(hex_colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, {alpha:g})"
