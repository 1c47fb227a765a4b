"""What is done with a plan: pairs drawn from it, matches, measures between its two sides.

None of it forms the plan: its rows are made a block at a time.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.lax as lax
import jax.numpy as jnp
import jax.random as jr
import lineax as lx
from jaxtyping import Array, ArrayLike, Bool, Float, Int, PRNGKeyArray

from ._arrays import float_array, float_scalar
from ._geometry import AbstractPlan
from ._operators import TransportPlan
from ._plan_rows import rows
from ._reduction import by_platform, map_rows
from ._varying import while_loop


def sample_pairs(
    plan: lx.AbstractLinearOperator, key: PRNGKeyArray, num_pairs: int
) -> tuple[Int[Array, " k"], Int[Array, " k"]]:
    r"""Pairs `(i, j)` drawn from a plan, with replacement: rows by their masses, then a column of
    each by its conditional law $P_{ij} / \sum_j P_{ij}$.

    **Raises:** `ValueError` unless `num_pairs` is a positive integer.
    """
    if isinstance(num_pairs, bool) or not isinstance(num_pairs, int) or num_pairs < 1:
        raise ValueError(f"`k` must be a positive integer, got {num_pairs!r}.")
    return _sample_pairs(plan, key, num_pairs)


@eqx.filter_jit
def _sample_pairs(plan, key, num_pairs):
    key_rows, key_columns = jr.split(key)
    row = plan.mv(jnp.ones(plan.in_structure().shape, plan.in_structure().dtype))
    cumulative = jnp.cumsum(row)
    level = jr.uniform(key_rows, (num_pairs,), row.dtype) * cumulative[-1]
    i = jnp.searchsorted(cumulative, level, side="right").astype(jnp.int32)
    # Rounding must not choose a row of mass zero at the end.
    last = row.shape[0] - 1 - jnp.argmax(row[::-1] > 0).astype(jnp.int32)
    i = jnp.minimum(i, last)
    return i, _columns_of(plan, i, key_columns)


@eqx.filter_jit
def draw_partners(plan: lx.AbstractLinearOperator, key: PRNGKeyArray) -> Int[Array, " n"]:
    """For each row one column, by its conditional law."""
    every = jnp.arange(plan.out_structure().shape[0], dtype=jnp.int32)
    return _columns_of(plan, every, key)


def _columns_of(plan, i: Int[Array, " k"], key: PRNGKeyArray) -> Int[Array, " k"]:
    law = _law(plan)
    level = jr.uniform(key, i.shape, plan.out_structure().dtype)

    def draw(block: tuple[Int[Array, " k"], Float[Array, " k"]]) -> Int[Array, " k"]:
        i, level = block
        cumulative = jnp.cumsum(law(i), axis=1)
        # The first column at which the sum exceeds the level, so that it has a positive mass.
        below = cumulative <= level[:, None] * cumulative[:, -1:]
        return jnp.minimum(jnp.sum(below, axis=1, dtype=jnp.int32), cumulative.shape[1] - 1)

    return _by_rows(draw, (i, level), plan)


@eqx.filter_jit
def best_partners(plan: lx.AbstractLinearOperator) -> Int[Array, " n"]:
    """For each row the column that it gives most to."""
    law = _law(plan)
    every = jnp.arange(plan.out_structure().shape[0], dtype=jnp.int32)
    return _by_rows(lambda i: jnp.argmax(law(i), axis=1).astype(jnp.int32), every, plan)


def one_to_one(plan: lx.AbstractLinearOperator) -> Int[Array, " n"]:
    """For each row a column of its own: the pair of largest density is taken, then the largest of
    the rest, and so on. No row stays without one, so that there must be as many columns.

    In rounds: a pair that is the largest of its row and of its column, among what is left, is taken
    sooner or later, so all such are taken at once. There are few rounds, each a pass over the plan.

    **Raises:** `ValueError` if there are fewer columns than rows.
    """
    n, m = plan.out_structure().shape[0], plan.in_structure().shape[0]
    if n > m:
        raise ValueError(
            f"A plan of shape {(n, m)} has fewer columns than rows, which cannot each have one of "
            "their own; ask its transpose, `solution.T.assign()`."
        )
    return _one_to_one(plan)


@eqx.filter_jit
def _one_to_one(plan):
    n, m = plan.out_structure().shape[0], plan.in_structure().shape[0]
    law, law_transposed = _density(plan), _density(plan.T)

    def best(law, count: int, absent: Bool[Array, " other"], plan) -> Int[Array, " count"]:
        largest = lambda i: jnp.argmax(jnp.where(absent[None, :], -1, law(i)), axis=1)
        every = jnp.arange(count, dtype=jnp.int32)
        return _by_rows(lambda i: largest(i).astype(jnp.int32), every, plan)

    def take(partners: Int[Array, " n"]) -> Int[Array, " n"]:
        has, taken = partners < m, jnp.zeros(m, bool).at[partners].set(True, mode="drop")
        wish = best(law, n, taken, plan)
        suitor = best(law_transposed, m, has, plan.T)
        mutual = ~has & (suitor[wish] == jnp.arange(n, dtype=jnp.int32))
        return jnp.where(mutual, wish, partners)

    nobody = jnp.full((n,), m, jnp.int32)
    return while_loop(lambda partners: jnp.any(partners == m), take, nobody)


def _law(plan: lx.AbstractLinearOperator) -> Callable[[Int[Array, " k"]], Float[Array, "k m"]]:
    """The conditional laws of rows, up to a factor: known for rows of mass zero too."""
    if isinstance(plan, TransportPlan):
        return lambda i: rows(plan.density, i) * plan.b[None, :]
    return lambda i: rows(plan, i)


def _density(
    plan: lx.AbstractLinearOperator,
) -> Callable[[Int[Array, " k"]], Float[Array, "k m"]]:
    """Entries relative to the two masses, where these are known."""
    if isinstance(plan, TransportPlan):
        return lambda i: rows(plan.density, i)
    return lambda i: rows(plan, i)


def _by_rows(reduce, block, plan: lx.AbstractLinearOperator):
    shape = jax.tree.leaves(block)[0].shape[0], plan.in_structure().shape[0]
    return by_platform(lambda size, block: map_rows(reduce, block, size), shape, block)


def projection(
    plan: lx.AbstractLinearOperator, y: Float[Array, "m d"]
) -> tuple[Float[Array, "n d"], Float[Array, " n"]]:
    r"""Where each row goes on average, $\sum_j P_{ij} y_j / \sum_j P_{ij}$, and its mass."""
    columns = jnp.concatenate([jnp.ones_like(y[:, :1]), y], axis=1)
    if isinstance(plan, TransportPlan):
        weighted = plan.density.mv(plan.b[:, None] * columns)
        return weighted[:, 1:] / weighted[:, :1], plan.a * weighted[:, 0]
    weighted = jax.vmap(plan.mv, in_axes=1, out_axes=1)(columns)
    mass = weighted[:, 0]
    return weighted[:, 1:] / jnp.where(mass > 0, mass, 1)[:, None], mass


@eqx.filter_jit
def interpolated(
    plan: lx.AbstractLinearOperator,
    x: Float[Array, "n d"],
    y: Float[Array, "m d"],
    t: ArrayLike,
    bias: tuple[lx.AbstractLinearOperator, Float[Array, "n d"]] | None = None,
) -> tuple[Float[Array, "n d"], Float[Array, " n"]]:
    r"""The points $(1 - t) x_i + t T(x_i)$ of McCann's interpolation, with T the barycentric
    projection of the plan, and their masses. `bias` is a plan from x to some points: what its own
    projection moves x by is taken off T."""
    t = float_scalar(t, "t", x.dtype)
    image, mass = projection(plan, y)
    if bias is not None:
        image = image - projection(*bias)[0] + x
    return (1 - t) * x + t * image, mass


@eqx.filter_jit
def matched_interpolation(
    x: ArrayLike, y: ArrayLike, columns: Int[Array, " n"], t: ArrayLike
) -> tuple[Float[Array, "n d"], Float[Array, " n"]]:
    """The same for a pairing of points, all of one mass."""
    x, y = float_array(x, "x", "n d"), float_array(y, "y", "m d")
    if x.shape[0] != columns.shape[0] or x.shape[1] != y.shape[1] or x.dtype != y.dtype:
        raise ValueError(
            f"`x` must hold the {columns.shape[0]} points of the rows, and `y` those of the "
            f"columns, of one space and dtype, got shapes {x.shape} and {y.shape}, dtypes "
            f"{x.dtype} and {y.dtype}."
        )
    t = float_scalar(t, "t", x.dtype)
    return (1 - t) * x + t * y[columns], jnp.full((x.shape[0],), 1 / x.shape[0], x.dtype)


@eqx.filter_jit
def entropy(plan: TransportPlan) -> Float[Array, ""]:
    r"""$-\sum_{ij} P_{ij} \log P_{ij}$."""
    density: AbstractPlan = plan.density
    row, column = plan.a * density.mv(plan.b), plan.b * density.T.mv(plan.a)
    log = lambda mass: jnp.log(jnp.where(mass > 0, mass, 1))
    return -jnp.sum(row * log(plan.a)) - jnp.sum(column * log(plan.b)) - _exponents(plan)


def _exponents(plan: TransportPlan) -> Float[Array, ""]:
    r"""$\sum_{ij} P_{ij} \log(P_{ij} / a_i b_j)$, a block of rows at a time."""

    def of_rows(block: tuple[Int[Array, " k"], Float[Array, " k"]]) -> Float[Array, " k"]:
        i, a = block
        density = rows(plan.density, i)
        # A log of zero has a product of zero, and no derivative.
        logarithm = jnp.log(jnp.where(density > 0, density, 1))
        return a * jnp.matmul(density * logarithm, plan.b, precision=lax.Precision.HIGHEST)

    every = jnp.arange(plan.a.shape[0], dtype=jnp.int32)
    return jnp.sum(_by_rows(of_rows, (every, plan.a), plan))
