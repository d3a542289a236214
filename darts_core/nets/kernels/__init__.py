"""The compiled kernels as Python sees them: a shared library, loaded with ctypes, that knows nothing of torch.

`cell.cpp` and `recurrent.cpp` are built on the machine they run on (`build.py`), so nothing here depends on the version
of torch or Python.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_POINTER, _INT, _LONG, _DOUBLE = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_double


class Kernels:
    """The library at `path`. Tensors are dense, on the CPU, all of one type, float32 or float64."""

    def __init__(self, path: Path) -> None:
        self.library = ctypes.CDLL(str(path))
        self.library.cell_sizes.argtypes = [_POINTER, _INT, _POINTER]
        self.library.cell_forward.argtypes = [_POINTER, _INT, _INT, *[_POINTER] * 6]
        self.library.cell_backward.argtypes = [_POINTER, _INT, _INT, *[_POINTER] * 6, _INT, *[_POINTER] * 3]
        nets = [_LONG, _LONG, _LONG, _POINTER, _POINTER, _INT, _INT, *[_POINTER] * 6]
        self.library.nets_forward.argtypes = nets
        self.library.nets_backward.argtypes = [*nets, _POINTER, _INT, *[_POINTER] * 3]
        for name in ("cell_sizes", "cell_forward", "cell_backward", "nets_forward", "nets_backward"):
            getattr(self.library, name).restype = None
        self.recurrent = Recurrent(self.library)

    def plan(self, numbers: Sequence[int], wide: bool) -> tuple[Any, tuple[int, int]]:
        """A cell as the library reads it, and how many numbers and doubles a forward pass keeps for the way back.

        The order of `numbers` is that of `Cell` in `cell.cpp`; `wide` means float64.
        """
        plan, sizes = (ctypes.c_int64 * len(numbers))(*numbers), (ctypes.c_int64 * 2)()
        self.library.cell_sizes(plan, wide, sizes)
        return plan, (sizes[0], sizes[1])

    def forward(
        self, plan: Any, threads: int, s0: Any, s1: Any, weights: Any, mix: Any, saved: Any, kept: Any, out: Any
    ) -> None:
        """Tensors (N, H, W, C) s0 and s1 -> out (N, H', W', outputs * C); fills `saved` and `kept`."""
        tensors = [t.data_ptr() for t in (weights, mix, saved, kept, out)]
        self.library.cell_forward(plan, s1.element_size() == 8, threads, _places((s0, s1)), *tensors)

    def backward(
        self, plan: Any, threads: int, passed: Sequence[Any], gradient: Any, needs: int, wanted: Sequence[Any]
    ) -> None:
        """Gradients from that of the output. `passed`: s0 to kept as in `forward`; `wanted`: tensors to fill for
        s0, s1, weights and mix, None where not wanted; `needs` says the same in bits (4, 8, 1, 2).
        """
        s, g = _places(passed[:2]), _places(wanted[:2])
        tensors = [t.data_ptr() for t in (*passed[2:], gradient)]
        found = [None if t is None else t.data_ptr() for t in wanted[2:]]
        self.library.cell_backward(plan, gradient.element_size() == 8, threads, s, *tensors, needs, g, *found)

    def forward_all(self, plans: Plans, threads: int, stem: Any, weights: Any, *of_cells: Sequence[Any]) -> None:
        """All cells of several nets. stem (nets, N, H, W, C), weights (nets, numbers of all cells) with rows of any
        length; `of_cells`: mix, saved, kept and out of each cell, each a tensor with a place for every net.
        """
        self.library.nets_forward(
            *plans.head(weights), threads, stem.data_ptr(), weights.data_ptr(), *map(_places, of_cells)
        )

    def backward_all(
        self, plans: Plans, threads: int, passed: Sequence[Any], gradient: Any, needs: int, slopes: Sequence[Any],
        weights: Any, mixes: Sequence[Any],
    ) -> None:  # fmt: skip
        """`passed` as to `forward_all`; `slopes`: a place for the gradient of each input of each cell, that of the stem
        is left in the first; `weights` (rows as long as in the weights) and `mixes`, a tensor for each cell, are filled
        too, None where not wanted; `needs` in bits: weights 1, mix 2, stem 4.
        """
        stem, own, *of_cells = passed
        given = (stem.data_ptr(), own.data_ptr(), *map(_places, of_cells), gradient.data_ptr())
        found = (_places(slopes), None if weights is None else weights.data_ptr(), _places(mixes))
        self.library.nets_backward(*plans.head(own), threads, *given, needs, *found)


def _places(tensors: Sequence[Any]) -> Any:
    """The addresses of tensors as an array; None stays None."""
    return (_POINTER * len(tensors))(*(None if t is None else t.data_ptr() for t in tensors))


class Plans:
    """The plans of all cells of a net, and where the weights of each begin among those of all."""

    def __init__(self, plans: Sequence[Any], begins: Sequence[int]) -> None:
        self.plans = plans  # kept alive: the array below holds their addresses
        self.array = (_POINTER * len(plans))(*(ctypes.addressof(plan) for plan in plans))
        self.begins = (_LONG * len(begins))(*begins)

    def head(self, weights: Any) -> tuple[Any, ...]:
        """The first arguments of both calls for several nets with these weights."""
        return len(self.plans), len(weights), weights.stride(0), self.array, self.begins, weights.element_size() == 8


class Recurrent:
    """The functions of `recurrent.cpp`, called with addresses: (float64 or not, columns B, units n, ...)."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.enter = _typed(library.recurrent_enter, *[_POINTER] * 3)
        self.enter_back = _typed(library.recurrent_enter_back, *[_POINTER] * 4)
        self.feed = _typed(library.recurrent_feed, _LONG, *[_POINTER] * 4, _LONG, _INT)
        self.feed_back = _typed(library.recurrent_feed_back, _LONG, *[_POINTER] * 4, _LONG, *[_POINTER] * 2)
        self.normalise = _typed(library.recurrent_normalise, _POINTER, _LONG, *[_POINTER] * 5, _INT, _DOUBLE)
        back = (*[_POINTER] * 4, _DOUBLE, *[_POINTER] * 3, _LONG)
        self.normalise_back = _typed(library.recurrent_normalise_back, *back)


def _typed(function: Any, *more: Any) -> Any:
    function.argtypes, function.restype = [_INT, _LONG, _LONG, *more], None
    return function
