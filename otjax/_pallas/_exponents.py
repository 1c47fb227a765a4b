"""Inside a kernel: the exponents of a block of the matrix, base 2, in registers."""

import functools
import operator
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float32

from ._blocks import Blocks, ONE_PRODUCT_UP_TO, Setting
from ._operands import Side
from ._primitives import Elementwise, loop, product


Tile = Float32[Array, "rows columns"]
Refs = tuple[Any, ...]


def exponents(rows: Side, columns: Side, setting: Setting) -> Callable[[Any, Array], Tile]:
    """Returns a function of the first column of a block, and of the biases of its entries, which
    may be of shape (1, columns). `rows` and `columns` hold references into memory."""
    if rows.parts[0].ndim == 1:
        return _by_differences(rows, columns, setting)
    return _by_products(rows, columns, setting)


def _by_differences(rows: Side, columns: Side, setting: Setting) -> Callable[[Any, Array], Tile]:
    profile, power = setting.profile, Elementwise(setting.interpret).power
    points = [part[...][:, None] for part in rows.parts]

    def squares(start):
        for x, part in zip(points, columns.parts, strict=True):
            difference = x - part[pl.ds(start, setting.blocks.columns)][None, :]
            yield difference * difference

    def tile(start, bias):
        if not profile.is_linear:
            return bias - power(functools.reduce(operator.add, squares(start)), profile.power)
        return functools.reduce(operator.sub, squares(start), bias)

    return tile


def _by_products(rows: Side, columns: Side, setting: Setting) -> Callable[[Any, Array], Tile]:
    profile, power = setting.profile, Elementwise(setting.interpret).power
    make = _whole if rows.parts[0].shape[1] <= ONE_PRODUCT_UP_TO else _blocked
    twice_product = make(rows.parts, columns.parts, setting.blocks)
    if profile.is_linear:
        return lambda start, bias: twice_product(start) + bias
    of_x = rows.squares[0][...][:, None]

    def tile(start, bias):
        sizes = of_x + columns.squares[0][pl.ds(start, setting.blocks.columns)][None, :]
        squares = sizes - twice_product(start)
        # Below this a difference is rounding, whose root would be far more than that.
        noise = 8 * float(jnp.finfo(jnp.float32).eps)
        return bias - power(jnp.where(squares > noise * sizes, squares, 0.0), profile.power)

    return tile


def _whole(x: Refs, y: Refs, blocks: Blocks) -> Callable[[Any], Tile]:
    """The product of all coordinates, of which those of the rows stay where they are."""
    of_rows = tuple(part[...] for part in x)

    def twice_product(start):
        columns = pl.ds(start, blocks.columns)
        return product(of_rows, tuple(part[columns, :] for part in y), (1, 1))

    return twice_product


def _blocked(x: Refs, y: Refs, blocks: Blocks) -> Callable[[Any], Tile]:
    """The same, one block of coordinates at a time."""

    def twice_product(start):
        columns = pl.ds(start, blocks.columns)

        def add(i, total):
            inner = pl.ds(i * blocks.inner, blocks.inner)
            of_rows = tuple(part[:, inner] for part in x)
            of_columns = tuple(part[columns, inner] for part in y)
            return total + product(of_rows, of_columns, (1, 1))

        zeros = jnp.zeros((blocks.rows, blocks.columns), jnp.float32)
        return loop(x[0].shape[1] // blocks.inner, add, zeros)

    return twice_product
