"""Which part of an operand a program sees."""

from typing import Any

import jax
from jax.experimental import pallas as pl

from ._blocks import Blocks


def rows_of_program(tree: Any, blocks: Blocks) -> Any:
    """For each array its rows of the program, whose number is the grid's first."""

    def spec(array):
        rest = array.shape[1:]
        return pl.BlockSpec((blocks.rows, *rest), lambda i, *_: (i,) + (0,) * len(rest))

    return jax.tree.map(spec, tree)


def whole(tree: Any) -> Any:
    """For each array all of it, to be read in blocks."""
    spec = lambda array: pl.BlockSpec(array.shape, lambda *_: (0,) * array.ndim)
    return jax.tree.map(spec, tree)
