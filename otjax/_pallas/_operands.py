"""What kernels read, in plain JAX: XLA takes out of a loop what is of points and epsilon alone."""

import math
from typing import NamedTuple

import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, Float32

from ._blocks import DIFFERENCES_UP_TO, padded_dimension, round_up, Setting
from ._primitives import split


class Side(NamedTuple):
    """One cloud of points, padded. In few dimensions `parts` are its coordinates; in many, the
    three bfloat16 parts of its matrix, beside the squared norms unless the biases have them."""

    parts: tuple[Array, ...]
    squares: tuple[Array, ...] = ()


class Operands(NamedTuple):
    """Two clouds, and what turns potentials into biases of exponents of base 2."""

    rows: Side
    columns: Side
    shift_x: Float32[Array, " n"]  # what is subtracted from the bias of each row
    shift_y: Float32[Array, " m"]
    rate: Float32[Array, ""]  # log2(e) / epsilon


def prepare(
    x: Float32[Array, "n d"],
    y: Float32[Array, "m d"],
    epsilon: Float32[Array, ""],
    setting: Setting,
) -> Operands:
    """The points as kernels want them: about their centre, stretched so that the cost is in units
    of bits, padded to whole blocks, and split."""
    rate = math.log2(math.e) / epsilon
    # Without its last bit, since the compiler may recompute a mean, unrounded, for one of its uses:
    # the points would be about two centres, as far apart as rounding at the origin's distance.
    centre = lax.reduce_precision(jnp.mean(y, axis=0, keepdims=True), 8, 22)
    stretch = setting.profile.stretch(rate)
    x, y = (x - centre) * stretch, (y - centre) * stretch
    blocks = setting.blocks
    sizes = blocks.rows, blocks.columns * blocks.unroll
    if x.shape[1] <= DIFFERENCES_UP_TO:
        rows, columns = (
            Side(tuple(pad(coordinate, block) for coordinate in points.T))
            for points, block in zip((x, y), sizes, strict=True)
        )
        return Operands(rows, columns, jnp.zeros_like(x[:, 0]), jnp.zeros_like(y[:, 0]), rate)
    width = padded_dimension(x.shape[1], blocks)
    # |x - y|^2 = |x|^2 + |y|^2 - (2 x).y
    rows, columns = (
        Side(split(_widen(pad(points, block), width)))
        for points, block in zip((2 * x, y), sizes, strict=True)
    )
    squares_x, squares_y = (jnp.sum(jnp.square(points), axis=1) for points in (x, y))
    if setting.profile.is_linear:
        return Operands(rows, columns, squares_x, squares_y, rate)
    rows = Side(rows.parts, (pad(squares_x, sizes[0]),))
    columns = Side(columns.parts, (pad(squares_y, sizes[1]),))
    return Operands(rows, columns, jnp.zeros_like(squares_x), jnp.zeros_like(squares_y), rate)


def biases(
    potential: Float32[Array, " n"],
    shift: Float32[Array, " n"],
    rate: Float32[Array, ""],
    block: int,
) -> Float32[Array, " padded"]:
    """Exponents of base 2 at cost zero. What is padded has weight zero, so kernels need no mask."""
    return pad(potential * rate - shift, block, -jnp.inf)


def pad(array: Array, block: int, value: float = 0.0) -> Array:
    """The same with further rows of `value`, to a multiple of `block`."""
    missing = round_up(array.shape[0], block) - array.shape[0]
    return jnp.pad(array, [(0, missing)] + [(0, 0)] * (array.ndim - 1), constant_values=value)


def _widen(points: Float32[Array, "n d"], width: int) -> Float32[Array, "n width"]:
    return jnp.pad(points, ((0, 0), (0, width - points.shape[1])))
