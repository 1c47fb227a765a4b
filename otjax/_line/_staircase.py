"""The monotone plan between two measures on the line, by merging their cumulative masses.

Seen in sorted order the plan's entries go down a staircase: each step passes the end of a point's
mass on one side or on the other, so that there are at most n + m - 1 of them.
"""

import equinox as eqx
import jax
import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class Staircase(eqx.Module):
    """A plan of few entries: mass `mass[k]` goes from point `i[k]` to point `j[k]`."""

    i: Int[Array, " k"]
    j: Int[Array, " k"]
    mass: Float[Array, " k"]


def staircase(
    x: Float[Array, " n"], y: Float[Array, " m"], a: Float[Array, " n"], b: Float[Array, " m"]
) -> Staircase:
    """The plan that is optimal for every convex cost of the difference; O(k log k), k = n + m."""
    (n,), (m,) = x.shape, y.shape
    order_x, order_y = sorting(x), sorting(y)
    keys = [
        jnp.concatenate(both) for both in zip(levels(a[order_x]), levels(b[order_y]), strict=True)
    ]
    index = jnp.arange(n + m)
    merged = lax.sort([*lax.stop_gradient(keys), index], num_keys=len(keys), is_stable=True)[-1]
    below_x = jnp.cumsum((merged < n).astype(index.dtype))
    below_x = jnp.concatenate([jnp.zeros((1,), index.dtype), below_x[:-1]])[: n + m - 1]
    below_y = index[: n + m - 1] - below_x
    mass = sum(
        (jnp.diff(key[merged], prepend=jnp.zeros((1,), key.dtype)) for key in keys),
        start=jnp.zeros((n + m,), a.dtype),
    )[:-1]
    # Rounding may leave a trace of mass beyond the last point or on one that has none.
    i = order_x[jnp.minimum(below_x, n - 1)]
    j = order_y[jnp.minimum(below_y, m - 1)]
    return Staircase(i, j, jnp.where((a[i] > 0) & (b[j] > 0), mass, 0))


def matching(x: Float[Array, " n"], y: Float[Array, " n"]) -> Staircase:
    """The same for as many points on either side, all of one mass, of total 1."""
    return Staircase(sorting(x), sorting(y), jnp.full_like(x, 1 / x.shape[0]))


def matching_in_order(x: Float[Array, " n"]) -> Staircase:
    """The same for points that are sorted already."""
    index = jnp.arange(x.shape[0])
    return Staircase(index, index, jnp.full_like(x, 1 / x.shape[0]))


@jax.custom_jvp
def in_order(x: Float[Array, " n"]) -> Float[Array, " n"]:
    """Finite numbers, sorted. As the integers that their bits are, which have the same order but
    for the negative ones: a CPU sorts these several times as fast."""
    integer = jnp.int32 if x.dtype == jnp.float32 else jnp.int64
    mirrored = lambda bits: jnp.where(bits < 0, bits ^ jnp.iinfo(integer).max, bits)
    bits = lax.sort(mirrored(lax.bitcast_convert_type(x, integer)), is_stable=False)
    return lax.bitcast_convert_type(mirrored(bits), x.dtype)


@in_order.defjvp
def _in_order_jvp(primals, tangents):
    # Through the function itself: JAX takes a result of the rule to have the batch axis where that
    # of the function has it.
    return in_order(primals[0]), tangents[0][sorting(primals[0])]


def sorting(x: Float[Array, " n"]) -> Int[Array, " n"]:
    """The permutation that sorts."""
    return jnp.argsort(lax.stop_gradient(x))


@jax.custom_jvp
def levels(mass: Float[Array, " n"]) -> tuple[Float[Array, " n"], ...]:
    """Cumulative masses, as numbers whose sum is exact enough for differences to be so.

    Between two levels near 1 float32 leaves 6e-8, as much as the mass of a point among many.
    There the rounding of every addition is carried along as a second number.
    """
    if mass.dtype != jnp.float32:
        return (jnp.cumsum(mass),)
    return lax.associative_scan(_add, (mass, jnp.zeros_like(mass)))


@levels.defjvp
def _levels_jvp(primals, tangents):
    values = levels(*primals)
    rest = (jnp.zeros_like(value) for value in values[1:])
    return values, (jnp.cumsum(tangents[0]), *rest)


def _add(left, right):
    """The sum of two pairs (number, its rounding error), by Knuth's TwoSum."""
    (high, low), (other_high, other_low) = left, right
    total = high + other_high
    part = total - high
    error = (high - (total - part)) + (other_high - part) + (low + other_low)
    rounded = total + error
    return rounded, error - (rounded - total)
