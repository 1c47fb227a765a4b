r"""Wasserstein distances on the circle (Delon, Salomon and Sobolevski 2010, arXiv:0902.3527).

Cut open at a level $\alpha$ of cumulative mass, the circle is the line, and the best cut is that of
least cost. The cost is convex and piecewise linear in $\alpha$, so bisection on the sign of its
slope finds the best cut, which is where ends of mass of the two sides meet. There the problem is
one on the line, with all its derivatives.
"""

import equinox as eqx
import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from .._arrays import float_scalar
from .._results import RESULTS
from .._varying import fori_loop
from ._distance import real_or_nan, scaled_cost
from ._dual import along
from ._measure import line_points, optional_masses, valid_pair
from ._power import order, Power, root, valid_order
from ._staircase import levels, sorting, staircase


def wasserstein_circle(
    x: ArrayLike,
    y: ArrayLike,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    p: ArrayLike = 2,
    period: ArrayLike = 1.0,
) -> Float[Array, ""]:
    r"""The Wasserstein distance on a circle, for the length of the shorter arc, exactly.

    $O((n + m) \log(n + m))$ for each of some fifty bisections. Differentiable to every order in
    points, masses, `p` and `period`, where derivatives exist; the derivative at $W_p = 0$ is 0.

    **Arguments:**

    - `x`, `y`: positions on the circle, shapes (n,) and (m,), any numbers: they count up to
        multiples of `period`.
    - `a`, `b`: their masses, shapes (n,) and (m,), of one total; `None` is uniform of total 1.
    - `p`: the order, a finite number of at least 1 that may be traced.
    - `period`: the length of the circle, positive, in the unit of the points; `2 * jnp.pi` for
        angles.

    **Returns:** the distance, in the unit of the points; NaN, with gradient zero, for points that
    are not finite, masses that are negative or not of one total, and a traced `p` below 1 or
    `period` not positive.

    **Raises:** `ValueError` for wrong shapes, dtypes and types, and for a known `p` below 1.
    """
    x, y = line_points(x, y)
    a = optional_masses(a, "a", x.shape[0], x.dtype)
    b = optional_masses(b, "b", y.shape[0], y.dtype)
    period = float_scalar(period, "period", x.dtype)
    return _wasserstein_circle(x, y, a, b, order(p, x.dtype), period)


@eqx.filter_jit
def _wasserstein_circle(
    x: Float[Array, " n"],
    y: Float[Array, " m"],
    a: Float[Array, " n"] | None,
    b: Float[Array, " m"] | None,
    p: Float[Array, ""] | int,
    period: Float[Array, ""],
) -> Float[Array, ""]:
    p, p_valid = valid_order(p, x.dtype)
    period_valid = (period > 0) & (period < jnp.inf)
    period = jnp.where(period_valid, period, 1)
    (x, y, a, b), result = valid_pair(x, y, a, b)
    x, y = (turns - lax.stop_gradient(jnp.floor(turns)) for turns in (x / period, y / period))
    x, a, y, b = *_sorted(x, a), *_sorted(y, b)
    total = jnp.sum(a)
    x, a = _cut(x, y, a / total, b / total, p)
    b = b / total
    value, scale = scaled_cost(x, y, a, b, p, staircase(x, y, a, b))
    valid = (result == RESULTS.successful) & p_valid & period_valid
    return real_or_nan(period * scale * root(total * value, p), valid)


def _sorted(x: Float[Array, " n"], a: Float[Array, " n"]) -> tuple[Array, Array]:
    order = sorting(x)
    return x[order], a[order]


def _cut(
    x: Float[Array, " n"],
    y: Float[Array, " m"],
    a: Float[Array, " n"],
    b: Float[Array, " m"],
    p: Float[Array, ""] | int,
) -> tuple[Float[Array, " n+1"], Float[Array, " n+1"]]:
    """The first measure, sorted on the circle of length 1, cut open where it is best."""
    (n,) = x.shape
    ends_x, ends_y = (levels(mass)[0] for mass in (a, b))
    i, j, turn = _best_cut(*lax.stop_gradient((x, y, ends_x, ends_y)), p)
    # The level of the cut is where the mass of x_i ends against y_j's: so it moves with the masses.
    level = ends_x[i] - ends_y[j] - turn
    laps = lax.stop_gradient(jnp.floor(level))
    level = level - laps
    start = jnp.searchsorted(ends_x, lax.stop_gradient(level), side="right")
    start = jnp.minimum(start, n - 1)
    places = start + jnp.arange(n + 1, dtype=start.dtype)
    round_trips = (places // n).astype(x.dtype) + laps
    first = jnp.clip(ends_x[start] - level, 0, a[start])
    masses = a[places % n].at[0].set(first).at[n].set(a[start] - first)
    return x[places % n] + round_trips, masses


def _best_cut(
    x: Float[Array, " n"],
    y: Float[Array, " m"],
    ends_x: Float[Array, " n"],
    ends_y: Float[Array, " m"],
    p: Float[Array, ""] | int,
) -> tuple[Int[Array, ""], Int[Array, ""], Float[Array, ""]]:
    """The ends of mass that meet at the best cut, and the full turns between them."""
    cost = Power(lax.stop_gradient(p) if not isinstance(p, int) else p, jnp.ones((), x.dtype))
    after = jnp.concatenate([x[1:], x[:1] + 1])
    (m,) = y.shape

    def partner(level: Float[Array, " n"]) -> tuple[Int[Array, " n"], Float[Array, " n"]]:
        """The point of y at a level that may go round, and the turns."""
        turn = jnp.ceil(level) - 1
        return jnp.minimum(jnp.searchsorted(ends_y, level - turn), m - 1), turn

    def halve(_, bracket):
        low, high = bracket
        middle = (low + high) / 2
        j, turn = partner(ends_x - middle)
        slope = jnp.sum(along(cost, after, y[j] + turn) - along(cost, x, y[j] + turn))
        return jnp.where(slope < 0, middle, low), jnp.where(slope < 0, high, middle)

    one = jnp.ones((), x.dtype)
    steps = jnp.finfo(x.dtype).nmant + 2
    low, high = fori_loop(steps, halve, (-one, one))
    level = ends_x - (low + high) / 2
    above, turn = partner(level)
    below = jnp.where(above > 0, above - 1, m - 1)
    # The end of y's mass just above each level, and the one just below.
    to_above = jnp.abs(ends_y[above] + turn - level)
    turn_below = jnp.where(above > 0, turn, turn - 1)
    to_below = jnp.abs(level - ends_y[below] - turn_below)
    nearest = jnp.where(to_above <= to_below, above, below)
    i = jnp.argmin(jnp.minimum(to_above, to_below))
    return i, nearest[i], jnp.where(to_above <= to_below, turn, turn_below)[i]
