r"""Sums over a grid, one axis at a time, each kept in range.

Where costs add over axes, $\sum_j \exp(h_j - \sum_k C^k_{i_k j_k}) V_j$ is a contraction with the
matrix $\exp(-C^k)$ of each axis in turn. Between the axes stand sums whose exponents are of the
size of the largest cost, beyond any dtype. So two things are carried: the logarithm of these sums
for $V = 1$, without derivative, and their ratio to it, which is a mean of values of $V$, whatever
their signs. All logarithms cancel, so that derivatives of any order are those of the sums.

A contraction is one product of matrices as long as its sums, with what all rows have in common
taken out, can be represented. Otherwise it is made for a few rows at a time, which have more in
common; for one row at a time it is a log-sum-exp. Costs and logarithms are in units of epsilon.
"""

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from .._arrays import constant
from .._varying import cond


# So many groups of rows, where all rows at once are out of range; one row each on short axes.
_GROUPS, _SHORT = 16, 64
# Sums below exp(-limit) of the largest may have lost some of their terms.
_LIMIT = {jnp.dtype("float32"): 60.0, jnp.dtype("float64"): 600.0}

Costs: TypeAlias = tuple[Float[Array, "_ _"], ...]


class PartialSums(eqx.Module):
    """What a contraction of all axes goes through, without derivatives.

    - `logs`: the logarithms of the sums after each axis, shape (rest, n_k) for the k-th; what is
        still to be contracted comes first, then the axes that are.
    - `tilts`: what is taken out of each row of each axis, shape (n_k,).
    - `care`: how carefully the sums must be made, 0 to 2.
    """

    logs: tuple[Float[Array, "_ _"], ...]
    tilts: tuple[Float[Array, " _"], ...]
    care: Int[Array, ""]


def partial_sums(
    costs: Costs, logs: Float[Array, " m"], needed: Bool[Array, " n"], dtype: jnp.dtype
) -> PartialSums:
    """The partial sums of `exp(logs)`, where `logs` may be `-inf`, to be used in `dtype`.

    Sums at points that are not `needed` may be wrong.
    """
    costs, logs = constant((costs, logs))
    needed = needed.reshape([cost.shape[0] for cost in costs])
    numbers = range(len(costs))
    asked = [jnp.any(needed, axis=tuple(numbers[k + 1 :])).reshape(-1) for k in numbers]

    def with_care(care: int) -> tuple[PartialSums, Bool[Array, ""]]:
        before, made, tilts, in_range = logs, [], [], []
        for cost, here in zip(costs, asked, strict=True):
            before = before.reshape(cost.shape[1], -1)
            tilts.append(_tilt(cost, before))
            after, good = _log_step(cost, tilts[-1], before, here, _block(cost, care), dtype)
            made.append(after)
            in_range.append(good)
            before = after
        sums = PartialSums(tuple(made), tuple(tilts), jnp.asarray(care, jnp.int32))
        return sums, jnp.all(jnp.stack(in_range))

    def at_least(care: int) -> PartialSums:
        sums, in_range = with_care(care)
        if care == _most_care(costs):
            return sums
        return cond(eqxi.unvmap_all(in_range), lambda: sums, lambda: at_least(care + 1))

    return at_least(0)


def contracted(
    costs: Costs, logs: Float[Array, " m"], sums: PartialSums, values: Float[Array, " m"]
) -> Float[Array, " n"]:
    """The sums of `exp(logs) * values`, as multiples of those of `exp(logs)`.

    Differentiable in costs, logarithms and values.
    """

    def with_care(care: int, costs: Costs, logs: Array, values: Array) -> Array:
        for cost, tilt, after in zip(costs, sums.tilts, sums.logs, strict=True):
            m = cost.shape[1]
            logs, values = logs.reshape(m, -1), values.reshape(m, -1)
            values = _step(cost, tilt, logs, after, values, _block(cost, care))
            logs = after
        return values.reshape(-1)

    branches = [partial(with_care, care) for care in range(_most_care(costs) + 1)]
    # One way for a whole batch: that of the member that asks for the most care.
    return lax.switch(eqxi.unvmap_max(sums.care), branches, costs, logs, values)


def _most_care(costs: Costs) -> int:
    return 1 if all(cost.shape[0] <= _SHORT for cost in costs) else 2


def _block(cost: Float[Array, "n m"], care: int) -> int:
    """How many rows to contract at a time."""
    n = cost.shape[0]
    return n if care == 0 else 1 if care == 2 or n <= _SHORT else -(-n // _GROUPS)


def _step(
    cost: Float[Array, "n m"],
    tilt: Float[Array, " n"],
    logs: Float[Array, "m r"],
    after: Float[Array, "r n"],
    values: Float[Array, "m r"],
    block: int,
) -> Float[Array, "r n"]:
    sums, offsets = _contraction(cost, tilt, logs, values, block)
    there = after > -jnp.inf
    exponents = jnp.where(there, offsets - after, 0)
    return jnp.where(there, sums * jnp.exp(exponents.astype(sums.dtype)), 0)


def _log_step(
    cost: Float[Array, "n m"],
    tilt: Float[Array, " n"],
    logs: Float[Array, "m r"],
    needed: Bool[Array, " k"],
    block: int,
    dtype: jnp.dtype,
) -> tuple[Float[Array, "r n"], Bool[Array, ""]]:
    """The logarithms of the sums, and whether those that are needed are in range."""
    ones = jnp.ones((1, 1), dtype)
    least = jnp.exp(jnp.asarray(-_LIMIT[jnp.dtype(dtype)], dtype))
    sums, offsets = _contraction(cost, tilt, logs, ones, block)
    empty = ~jnp.any(logs > -jnp.inf, axis=0)
    lost = ~(sums >= least) & ~empty[:, None]
    lost = lost.reshape(-1, needed.shape[0]) & needed[None, :]
    return offsets + jnp.log(sums).astype(offsets.dtype), ~jnp.any(lost)


def _contraction(
    cost: Float[Array, "n m"],
    tilt: Float[Array, " n"],
    logs: Float[Array, "m r"],
    values: Float[Array, "..."],
    block: int,
) -> tuple[Float[Array, "r n"], Float[Array, "r n"]]:
    """Sums, and the logarithms of the factors that were taken out of them."""

    def of_rows(rows: tuple[Array, Array]) -> tuple[Array, Array]:
        cost, tilt = rows
        lowered = cost - tilt[:, None]
        shift = constant(jnp.min(lowered, axis=0))
        scores = logs - shift[:, None]
        top = constant(jnp.max(scores, axis=0))
        top = jnp.where(top > -jnp.inf, top, 0)
        there = scores > -jnp.inf
        scores = jnp.where(there, scores - top[None, :], 0)
        entries = jnp.where(there, jnp.exp(scores.astype(values.dtype)) * values, 0)
        kernel = jnp.exp((shift[None, :] - lowered).astype(values.dtype))
        # The new axis comes last, so that the next one comes first, and nothing is transposed.
        axes = ((0,), (1,)), ((), ())
        sums = lax.dot_general(entries, kernel, axes, precision=lax.Precision.HIGHEST)
        return sums, top[:, None] - tilt[None, :]

    return _in_blocks(of_rows, (cost, tilt), block)


def _tilt(cost: Float[Array, "n m"], logs: Float[Array, "m r"]) -> Float[Array, " n"]:
    """About minus the logarithm of a row's sums: those of the mean of all columns."""
    there = logs > -jnp.inf
    total = jnp.sum(jnp.where(there, logs, 0), axis=1)
    number = jnp.sum(there, axis=1)
    mean = jnp.where(number > 0, total / jnp.maximum(number, 1).astype(total.dtype), -jnp.inf)
    return -jax.nn.logsumexp(mean[None, :] - cost, axis=1)


def _in_blocks(
    of_rows: Callable[[tuple[Array, Array]], tuple[Array, Array]],
    rows: tuple[Float[Array, "n m"], Float[Array, " n"]],
    block: int,
) -> tuple[Float[Array, "r n"], Float[Array, "r n"]]:
    """`of_rows(rows)`, which has one column for each row, for `block` rows at a time."""
    n = rows[1].shape[0]
    if block == n:
        return of_rows(rows)
    number = -(-n // block)

    def split(leaf: Array) -> Array:
        beyond = [(0, number * block - n)] + [(0, 0)] * (leaf.ndim - 1)
        return jnp.pad(leaf, beyond, mode="edge").reshape(number, block, *leaf.shape[1:])

    # What is made for a block is made anew in a derivative.
    once = jax.checkpoint(of_rows, prevent_cse=False)
    parts = lax.map(once, jax.tree.map(split, rows))
    join = lambda leaf: jnp.moveaxis(leaf, 0, 1).reshape(leaf.shape[1], -1)[:, :n]
    return join(parts[0]), join(parts[1])
