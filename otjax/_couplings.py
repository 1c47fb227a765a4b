"""What is done with a plan: pairs drawn from it, matches, measures between its two sides.

None of it forms the plan: its rows are made a block at a time.
"""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.lax as lax
import jax.numpy as jnp
import jax.random as jr
import lineax as lx
from jaxtyping import Array, ArrayLike, Float, Int, PRNGKeyArray

from ._arrays import float_array, float_scalar
from ._geometry import AbstractPlan
from ._operators import TransportPlan
from ._plan_rows import rows
from ._problem import PreparedProblem
from ._reduction import by_platform, by_rows
from ._varying import while_loop


# In so many rounds at least a one-to-one matching is found: few rows ask more than once.
_ROUNDS = 8
_BLUR = 16
# Columns whose masses are summed before one of them is drawn.
_GROUP = 64


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
    return i, columns_of(plan, i, key_columns)


@eqx.filter_jit
def draw_partners(plan: lx.AbstractLinearOperator, key: PRNGKeyArray) -> Int[Array, " n"]:
    """For each row one column, by its conditional law."""
    every = jnp.arange(plan.out_structure().shape[0], dtype=jnp.int32)
    return columns_of(plan, every, key)


def columns_of(
    plan: lx.AbstractLinearOperator, i: Int[Array, " k"], key: PRNGKeyArray
) -> Int[Array, " k"]:
    """For each of some rows one column, by its conditional law."""
    law = _law(plan)
    level = jr.uniform(key, i.shape, plan.out_structure().dtype)

    draw = lambda block: column_at(law(block[0]), block[1])
    return by_rows(draw, (i, level), _num_columns(plan))


def column_at(law: Float[Array, "k m"], level: Float[Array, " k"]) -> Int[Array, " k"]:
    """The column of each row at which its law, of any total, is drawn by a level of [0, 1): first
    the group of columns, then the one in it, as cumulated sums of long rows are slow."""
    k, m = law.shape
    size = min(_GROUP, m)
    groups = jnp.pad(law, ((0, 0), (0, -m % size))).reshape(k, -1, size)
    masses = jnp.sum(groups, axis=2)
    group, rest = _place(masses, level * jnp.sum(masses, axis=1))
    inside = jnp.take_along_axis(groups, group[:, None, None], axis=1)[:, 0]
    return size * group + _place(inside, rest)[0]


def _place(
    masses: Float[Array, "k s"], target: Float[Array, " k"]
) -> tuple[Int[Array, " k"], Float[Array, " k"]]:
    """The first place of each row at which the cumulated masses exceed a target, and what is left
    of that before it. A place without mass is never the one, nor is there none, for rounding."""
    cumulative = jnp.cumsum(masses, axis=1)
    places, has_mass = jnp.arange(masses.shape[1], dtype=jnp.int32)[None, :], masses > 0
    last = jnp.max(jnp.where(has_mass, places, 0), axis=1, keepdims=True)
    place = jnp.min(jnp.where(has_mass & (cumulative > target[:, None]), places, last), axis=1)
    before = jnp.take_along_axis(cumulative - masses, place[:, None], axis=1)[:, 0]
    return place, target - before


@eqx.filter_jit
def best_partners(plan: lx.AbstractLinearOperator) -> Int[Array, " n"]:
    """For each row the column that it gives most to."""
    law = _law(plan)
    every = jnp.arange(plan.out_structure().shape[0], dtype=jnp.int32)
    best = lambda i: jnp.argmax(law(i), axis=1).astype(jnp.int32)
    return by_rows(best, every, _num_columns(plan))


def one_to_one(
    problem: PreparedProblem, f: Float[Array, " n"], g: Float[Array, " m"]
) -> Int[Array, " n"]:
    """For each row of the plan of two potentials a column of its own: the pair of largest density
    is taken, then the largest of the rest, and so on. No row stays without one, so that there must
    be as many columns.

    **Raises:** `ValueError` if there are fewer columns than rows.
    """
    n, m = problem.geometry.shape
    if n > m:
        raise ValueError(
            f"A plan of shape {(n, m)} has fewer columns than rows, which cannot each have one of "
            "their own; ask its transpose, `solution.T.assign()`."
        )
    # The order of densities is the same at every epsilon; at a larger one few are rounded to zero.
    return _one_to_one(problem.geometry.plan(f, g, _BLUR * problem.epsilon))


class _Matching(NamedTuple):
    """Which rows have a column by now; m and n stand for none."""

    partners: Int[Array, " n"]
    holders: Int[Array, " m"]
    held: Float[Array, " m"]  # the density of each column with its holder, or -1


@eqx.filter_jit
def _one_to_one(density: AbstractPlan) -> Int[Array, " n"]:
    # The same is found by deferred acceptance (Gale and Shapley 1962), whoever asks first: a row
    # without a column asks the one that it has most of and that has less of its own holder, and
    # takes its place. So a round looks at some rows that have none, not at all of the plan.
    like = jax.eval_shape(density.as_matrix)
    n, m = like.shape

    def ask(at_once: int, matching: _Matching) -> _Matching:
        partners, holders, held = matching
        (i,) = jnp.nonzero(partners == m, size=at_once, fill_value=n)
        i = i.astype(jnp.int32)
        offers = jnp.nan_to_num(rows(density, jnp.minimum(i, n - 1)))
        offers = jnp.where((i < n)[:, None] & (offers > held[None, :]), offers, -1)
        j = jnp.argmax(offers, axis=1).astype(jnp.int32)
        offer = jnp.max(offers, axis=1)
        best = held.at[j].max(offer)
        wins = (offer > held[j]) & (offer == best[j])
        first = jnp.full((m,), n, jnp.int32).at[jnp.where(wins, j, m)].min(i, mode="drop")
        wins &= first[j] == i
        partners = partners.at[jnp.where(wins, holders[j], n)].set(m, mode="drop")
        partners = partners.at[jnp.where(wins, i, n)].set(j, mode="drop")
        holders = holders.at[jnp.where(wins, j, m)].set(i, mode="drop")
        return _Matching(partners, holders, best)

    def matched(block: int, matching: _Matching) -> _Matching:
        at_once = min(block, max(n // _ROUNDS, 1))
        unfinished = lambda matching: jnp.any(matching.partners == m)
        return while_loop(unfinished, lambda matching: ask(at_once, matching), matching)

    nobody = _Matching(
        jnp.full((n,), m, jnp.int32),
        jnp.full((m,), n, jnp.int32),
        jnp.full((m,), -1, like.dtype),
    )
    return by_platform(matched, (n, m), nobody).partners


def _law(plan: lx.AbstractLinearOperator) -> Callable[[Int[Array, " k"]], Float[Array, "k m"]]:
    """The conditional laws of rows, up to a factor: known for rows of mass zero too."""
    if isinstance(plan, TransportPlan):
        return lambda i: rows(plan.density, i) * plan.b[None, :]
    return lambda i: rows(plan, i)


def _num_columns(plan: lx.AbstractLinearOperator) -> int:
    return plan.in_structure().shape[0]


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
    return jnp.sum(by_rows(of_rows, (every, plan.a), plan.b.shape[0]))
