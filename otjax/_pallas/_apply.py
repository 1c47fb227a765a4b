"""The matrix of exponentials, applied to columns."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jax.experimental import pallas as pl
from jaxtyping import Array, Float32

from ._blocks import apply_blocks, Setting
from ._columns import chunks, cut, join, outputs
from ._exponents import exponents
from ._operands import biases, pad, prepare, Side
from ._primitives import call, Elementwise, loop, product, split
from ._profile import Profile
from ._specs import rows_of_program, whole


def apply(
    x: Float32[Array, "n d"],
    y: Float32[Array, "m d"],
    f: Float32[Array, " n"],
    g: Float32[Array, " m"],
    epsilon: Float32[Array, ""],
    columns: Float32[Array, "m k"],
    *,
    profile: Profile,
    interpret: bool = False,
) -> Float32[Array, "n k"]:
    r"""$\sum_j \exp((f_i + g_j - C_{ij}) / \epsilon)\, v_{jk}$ for every row $i$ and column $v_k$.

    A batch of columns for one matrix, under `jax.vmap`, is one matrix with more columns.

    **Arguments:**

    - `x`, `y`: points, $C_{ij}$ being the `profile` of the squared distance of two of them.
    - `f`, `g`: one number per row and per column of the matrix; `-inf` makes its entries zero.
        The exponents may not be so large that their exponentials overflow.
    - `epsilon`: positive.
    - `columns`: what to apply the matrix to, of any sign.
    - `interpret`: run on any device, slowly.
    """

    def function(points, columns):
        x, y, f, g, epsilon = points
        setting = Setting(profile, apply_blocks(x.shape[1], *columns.shape), interpret)
        return apply_with(x, y, f, g, epsilon, columns, setting)

    return _folding(function)((x, y, f, g, epsilon), columns)


def _folding(function: Callable[[Any, Array], Array]) -> Callable[[Any, Array], Array]:
    """The same function of points and columns, (..., n, k) from (..., m, k), to which a batch of
    columns is further columns."""
    folding = custom_vmap(function)

    @folding.def_vmap
    def _(axis_size, in_batched, points, columns):
        batched, columns_batched = in_batched
        if columns_batched and not any(jax.tree.leaves(batched)):
            k = columns.shape[-1]
            columns = jnp.moveaxis(columns, 0, -1)
            out = folding(points, columns.reshape(*columns.shape[:-2], k * axis_size))
            return jnp.moveaxis(out.reshape(*out.shape[:-1], k, axis_size), -1, 0), True
        axes = jax.tree.map(lambda is_batched: 0 if is_batched else None, in_batched)
        return _folding(jax.vmap(function, axes))(points, columns), True

    return folding


def apply_with(
    x: Float32[Array, "n d"],
    y: Float32[Array, "m d"],
    f: Float32[Array, " n"],
    g: Float32[Array, " m"],
    epsilon: Float32[Array, ""],
    columns: Float32[Array, "m k"],
    setting: Setting,
) -> Float32[Array, "n k"]:
    """The same in blocks of one's own choice."""
    blocks, k = setting.blocks, columns.shape[1]
    rows_, columns_, shift_x, shift_y, rate = prepare(x, y, epsilon, setting)
    step = blocks.columns * blocks.unroll
    bias_x, bias_y = biases(f, shift_x, rate, blocks.rows), biases(g, shift_y, rate, step)
    values, specs = cut(pad(columns, step))
    shapes, out_specs = outputs(bias_x.shape[0], k, blocks)

    def kernel(*refs):
        _kernel(*refs, setting=setting)

    outs = call(
        kernel,
        grid=(bias_x.shape[0] // blocks.rows, chunks(k)),
        in_specs=(
            rows_of_program((rows_, bias_x), blocks),
            whole((columns_, bias_y)),
            tuple((spec,) * len(value) for spec, value in zip(specs, values, strict=True)),
        ),
        out_specs=out_specs,
        out_shape=shapes,
        blocks=blocks,
        interpret=setting.interpret,
    )((rows_, bias_x), (columns_, bias_y), values)
    return join(outs, k)[: x.shape[0]]


def _kernel(
    rows: tuple[Side, Any],
    columns: tuple[Side, Any],
    values: tuple[tuple[Any, ...], ...],
    *outs: Any,
    setting: Setting,
) -> None:
    """The sums of one program: in each step a block of the matrix, which meets all values.

    There is no maximum to subtract: potentials that nearly solve a problem leave no large exponent.
    """
    blocks, exp2 = setting.blocks, Elementwise(setting.interpret).exp2
    tile = exponents(rows[0], columns[0], setting)
    of_row, bias = rows[1][...][:, None], columns[1]
    # Where scores are sums over coordinates each thread adds up what is its own, until the end.
    per_lane = rows[0].parts[0].ndim == 1

    def round_(r, totals):
        for step in range(blocks.unroll):
            start = (r * blocks.unroll + step) * blocks.columns
            part = pl.ds(start, blocks.columns)
            weights = exp2(tile(start, of_row + bias[part][None, :]))
            terms = _terms(weights, values, part, per_lane)
            totals = [total + term for total, term in zip(totals, terms, strict=True)]
        return totals

    lanes = blocks.columns if per_lane else 1
    shapes = [(blocks.rows, lanes if out.ndim == 1 else out.shape[1]) for out in outs]
    zeros = [jnp.zeros(shape, jnp.float32) for shape in shapes]
    rounds = bias.shape[0] // (blocks.columns * blocks.unroll)
    totals = loop(rounds, round_, zeros)
    for out, total in zip(outs, totals, strict=True):
        out[...] = jnp.sum(total, axis=1) if out.ndim == 1 else total


def _terms(
    weights: Float32[Array, "rows columns"],
    values: tuple[tuple[Any, ...], ...],
    part: Any,
    per_lane: bool,
) -> list[Array]:
    """What one block of the matrix adds to each total."""
    if values[0][0].ndim == 1:
        terms = [weights * vector[part][None, :] for (vector,) in values]
        return terms if per_lane else [jnp.sum(term, axis=1, keepdims=True) for term in terms]
    parts = split(weights)
    matrices = [tuple(ref[part, :] for ref in value) for value in values]
    return [product(parts, matrix, (1, 0)) for matrix in matrices]
