"""All squared distances between two clouds of points, as a matrix in memory."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float32

from ._blocks import Blocks, ONE_PRODUCT_UP_TO, Setting
from ._exponents import exponents
from ._operands import pad, prepare
from ._primitives import call
from ._profile import SQUARED
from ._specs import rows_of_program


# Below so much of the squared norms a squared distance is rounding.
_NOISE = 4 * float(jnp.finfo(jnp.float32).eps)


def squared_distances(
    x: Float32[Array, "n d"], y: Float32[Array, "m d"], *, interpret: bool = False
) -> Float32[Array, "n m"]:
    """$|x_i - y_j|^2$, up to the rounding of float32, by matrix units where there are many
    coordinates. A library's product in float32 takes seconds to be chosen among many."""
    warps = 4 if x.shape[1] <= ONE_PRODUCT_UP_TO else 8
    blocks = Blocks(rows=16 * warps, columns=64, warps=warps)
    setting = Setting(SQUARED, blocks, interpret)
    # At this epsilon the exponents, of base 2, are the negative squared distances.
    one_bit = jnp.asarray(1 / jnp.log(2.0), jnp.float32)
    rows, columns, squares_x, squares_y, _ = prepare(x, y, one_bit, setting)
    sizes = pad(squares_x, blocks.rows), pad(squares_y, blocks.columns)
    n, m = sizes[0].shape[0], sizes[1].shape[0]

    def kernel(*refs):
        _kernel(*refs, setting=setting)

    out = call(
        kernel,
        grid=(n // blocks.rows, m // blocks.columns),
        in_specs=(
            rows_of_program((rows, sizes[0]), blocks),
            jax.tree.map(lambda array: _columns_of_program(array, blocks), (columns, sizes[1])),
        ),
        out_specs=pl.BlockSpec((blocks.rows, blocks.columns), lambda i, j: (i, j)),
        out_shape=jax.ShapeDtypeStruct((n, m), jnp.float32),
        blocks=blocks,
        interpret=interpret,
    )((rows, sizes[0]), (columns, sizes[1]))
    return out[: x.shape[0], : y.shape[0]]


def _kernel(rows: Any, columns: Any, out: Any, *, setting: Setting) -> None:
    tile = exponents(rows[0], columns[0], setting)
    if rows[0].parts[0].ndim == 1:
        out[...] = -tile(0, jnp.zeros(out.shape, jnp.float32))
        return
    sizes = rows[1][...][:, None] + columns[1][...][None, :]
    squares = sizes - tile(0, jnp.zeros(out.shape, jnp.float32))
    out[...] = jnp.where(squares > _NOISE * sizes, squares, 0.0)


def _columns_of_program(array: Array, blocks: Blocks) -> pl.BlockSpec:
    rest = array.shape[1:]
    return pl.BlockSpec((blocks.columns, *rest), lambda i, j: (j,) + (0,) * len(rest))
