"""Quantiles of weighted samples."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from .._arrays import float_array
from ._measure import optional_masses, valid_masses, valid_points
from ._staircase import levels, sorting


def quantile(x: ArrayLike, q: ArrayLike, a: ArrayLike | None = None) -> Float[Array, "..."]:
    r"""The quantile function of a weighted sample,
    $F^{-1}(q) = \min \{x_i : \sum_{x_k \le x_i} a_k \ge q \sum_k a_k\}$, exactly.

    NumPy's `quantile(x, q, weights=a, method="inverted_cdf")`. The derivative by the points is
    that of the point that is returned; by `q` and by the masses it is 0.

    **Arguments:**

    - `x`: the points, shape (n,), in any order.
    - `q`: levels between 0 and 1, any shape.
    - `a`: the masses, shape (n,), of any total; `None` is uniform.

    **Returns:** one point for each level, in the shape of `q`; NaN, with gradient zero, for levels
    outside of [0, 1], points that are not finite and masses that are negative.

    **Raises:** `ValueError` for wrong shapes, dtypes and types.
    """
    x = float_array(x, "x", "points")
    if isinstance(q, (list, tuple)):
        raise ValueError(f"`q` must be a number or an array, got {type(q).__name__}.")
    q = jnp.asarray(q, x.dtype)
    return _quantile(x, q, optional_masses(a, "a", x.shape[0], x.dtype))


@eqx.filter_jit
def _quantile(
    x: Float[Array, " n"], q: Float[Array, "*s"], a: Float[Array, " n"] | None
) -> Float[Array, "*s"]:
    a, masses_valid = valid_masses(a, x.shape[0], x.dtype)
    x, finite = valid_points(x, a)
    order = sorting(x)
    ends = levels(a[order])[0]
    # A level that rounding has put just above the end of a point's mass is that point's. Points
    # of mass zero at the lower end have level zero, which is nobody's.
    epsilon = jnp.finfo(x.dtype).eps
    target = jnp.maximum((q - 8 * epsilon) * ends[-1], epsilon * jnp.min(jnp.where(a > 0, a, 1)))
    place = jnp.minimum(jnp.searchsorted(ends, target), x.shape[0] - 1)
    valid = masses_valid & finite & (q >= 0) & (q <= 1)
    return jnp.where(valid, x[order[place]], jnp.nan)
