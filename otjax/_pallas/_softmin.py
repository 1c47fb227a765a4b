"""The soft minimum over the columns, for each row."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float32

from ._blocks import DIFFERENCES_UP_TO, Setting, softmin_blocks
from ._exponents import exponents
from ._operands import biases, prepare, Side
from ._primitives import call, Elementwise, loop
from ._profile import Profile
from ._specs import rows_of_program, whole


# Where running maxima start: as a finite number, so that no difference of them is NaN.
_LOWEST = float(jnp.finfo(jnp.float32).min)


def softmin(
    x: Float32[Array, "n d"],
    y: Float32[Array, "m d"],
    h: Float32[Array, " m"],
    epsilon: Float32[Array, ""],
    *,
    profile: Profile,
    interpret: bool = False,
) -> Float32[Array, " n"]:
    r"""$-\epsilon \log \sum_j \exp((h_j - C_{ij}) / \epsilon)$ for every row $i$.

    **Arguments:**

    - `x`, `y`: points, $C_{ij}$ being the `profile` of the squared distance of two of them.
    - `h`: one number per column; `-inf` takes the column out. Without any column the result is
        `inf`.
    - `epsilon`: positive.
    - `interpret`: run on any device, slowly.
    """
    blocks = softmin_blocks(x.shape[1], y.shape[0])
    return softmin_with(x, y, h, epsilon, Setting(profile, blocks, interpret))


def softmin_with(
    x: Float32[Array, "n d"],
    y: Float32[Array, "m d"],
    h: Float32[Array, " m"],
    epsilon: Float32[Array, ""],
    setting: Setting,
) -> Float32[Array, " n"]:
    """The same in blocks of one's own choice."""
    blocks = setting.blocks
    rows, columns, shift_x, shift_y, rate = prepare(x, y, epsilon, setting)
    bias = biases(h, shift_y, rate, blocks.columns * blocks.unroll)
    size, programs = rows.parts[0].shape[0], rows.parts[0].shape[0] // blocks.rows
    per_lane = x.shape[1] <= DIFFERENCES_UP_TO

    def kernel(rows, columns, bias, out):
        _kernel(rows, columns, bias, out, per_lane=per_lane, setting=setting)

    log2_sum = call(
        kernel,
        grid=(programs,),
        in_specs=(rows_of_program(rows, blocks), whole(columns), whole(bias)),
        out_specs=pl.BlockSpec((blocks.rows,), lambda i: (i,)),
        out_shape=jax.ShapeDtypeStruct((size,), jnp.float32),
        blocks=blocks,
        interpret=setting.interpret,
    )(rows, columns, bias)
    return (shift_x - log2_sum[: x.shape[0]]) / rate


def _kernel(
    rows: Side, columns: Side, bias: Any, out: Any, *, per_lane: bool, setting: Setting
) -> None:
    """Log-sum-exps of base 2, of the rows of one program, in one sweep (Milakov and Gimelshein
    2018, arXiv:1805.02867).

    With `per_lane` each thread keeps a maximum and a sum of its own for every row, which are joined
    at the end: within the loop no thread waits for another.
    """
    blocks, exp2 = setting.blocks, Elementwise(setting.interpret).exp2
    tile = exponents(rows, columns, setting)
    over = lambda reduce: (lambda t: t) if per_lane else lambda t: reduce(t, axis=1, keepdims=True)
    highest, summed = over(jnp.max), over(jnp.sum)

    def round_(r, carry):
        top, total = carry
        starts = [(r * blocks.unroll + step) * blocks.columns for step in range(blocks.unroll)]
        tiles = [tile(start, bias[pl.ds(start, blocks.columns)][None, :]) for start in starts]
        old = top
        for each in tiles:
            top = jnp.maximum(top, highest(each))
        total = total * exp2(old - top)
        for each in tiles:
            total = total + summed(exp2(each - top))
        return top, total

    lanes = (blocks.rows, blocks.columns if per_lane else 1)
    start = jnp.full(lanes, _LOWEST, jnp.float32), jnp.zeros(lanes, jnp.float32)
    rounds = bias.shape[0] // (blocks.columns * blocks.unroll)
    tops, totals = loop(rounds, round_, start)
    top = jnp.max(tops, axis=1)
    total = jnp.sum(totals * exp2(tops - top[:, None]), axis=1)
    out[...] = top + jnp.log2(total)
