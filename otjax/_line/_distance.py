"""Wasserstein distances on the line."""

import equinox as eqx
import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from .._results import RESULTS
from ._dual import transport_cost
from ._measure import line_points, optional_masses, valid_pair
from ._power import order, Power, root, valid_order
from ._staircase import in_order, matching_in_order, Staircase, staircase


def wasserstein_1d(
    x: ArrayLike,
    y: ArrayLike,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    p: ArrayLike = 2,
) -> Float[Array, ""]:
    r"""The Wasserstein distance on the line,
    $W_p = (\int_0^1 |F_x^{-1}(q) - F_y^{-1}(q)|^p \, dq)^{1/p}$, exactly.

    Sorts, and merges the two cumulative masses: $O((n + m) \log(n + m))$. Differentiable to every
    order in points, masses and `p`, where derivatives exist; the derivative at $W_p = 0$ is 0.

    SciPy's `wasserstein_distance` is `p=1`.

    **Arguments:**

    - `x`, `y`: the points, shapes (n,) and (m,), in any order.
    - `a`, `b`: their masses, shapes (n,) and (m,), of one total; `None` is uniform of total 1.
    - `p`: the order, a finite number of at least 1 that may be traced.

    **Returns:** the distance, in the unit of the points; NaN, with gradient zero, for points that
    are not finite, masses that are negative or not of one total, and a traced `p` below 1.

    **Raises:** `ValueError` for wrong shapes, dtypes and types, and for a known `p` below 1.
    """
    x, y = line_points(x, y)
    a = optional_masses(a, "a", x.shape[0], x.dtype)
    b = optional_masses(b, "b", y.shape[0], y.dtype)
    return _wasserstein_1d(x, y, a, b, order(p, x.dtype))


@eqx.filter_jit
def _wasserstein_1d(
    x: Float[Array, " n"],
    y: Float[Array, " m"],
    a: Float[Array, " n"] | None,
    b: Float[Array, " m"] | None,
    p: Float[Array, ""] | int,
) -> Float[Array, ""]:
    p, p_valid = valid_order(p, x.dtype)
    uniform = a is None and b is None and x.shape == y.shape
    (x, y, a, b), result = valid_pair(x, y, a, b)
    if uniform:
        x, y = in_order(x), in_order(y)
    plan = matching_in_order(x) if uniform else staircase(x, y, a, b)
    value, scale = scaled_cost(x, y, a, b, p, plan)
    return real_or_nan(scale * root(value, p), (result == RESULTS.successful) & p_valid)


def scaled_cost(
    x: Float[Array, " n"],
    y: Float[Array, " m"],
    a: Float[Array, " n"],
    b: Float[Array, " m"],
    p: Float[Array, ""] | int,
    plan: Staircase,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The cost of `plan` for distances over the largest one, to the power p, and that one.

    So that no p makes it overflow, or underflow to zero.
    """
    moved = lax.stop_gradient(jnp.where(plan.mass > 0, jnp.abs(x[plan.i] - y[plan.j]), 0))
    scale = jnp.max(moved)
    scale = jnp.where(scale > 0, scale, 1)
    return transport_cost(Power(p, scale), x, y, a, b, plan), scale


def real_or_nan(value: Float[Array, ""], valid: Array) -> Float[Array, ""]:
    """The value where the input was valid and it has not overflown, and NaN elsewhere."""
    return jnp.where(valid & jnp.isfinite(value), value, jnp.nan)
