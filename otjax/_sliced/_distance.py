"""The sliced Wasserstein distance."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from .._line._distance import real_or_nan, scaled_cost
from .._line._power import order, root, valid_order
from .._line._staircase import in_order, matching_in_order, staircase
from .._results import RESULTS
from ._directions import chunk_size, for_each, project, random_directions
from ._measure import Clouds, clouds, valid_clouds, ValidClouds


def sliced_wasserstein(
    x: ArrayLike,
    y: ArrayLike,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    p: ArrayLike = 2,
    num_projections: int = 128,
    key: PRNGKeyArray,
    chunk: int | None = None,
) -> Float[Array, ""]:
    r"""The sliced Wasserstein distance
    $SW_p = (\mathbb{E}_\theta \, W_p(\theta \cdot x, \theta \cdot y)^p)^{1/p}$
    (Bonneel et al. 2015, doi:10.1007/s10851-014-0506-3), its mean over directions $\theta$ by
    Monte Carlo. With one key the same directions are drawn: a metric on their projections.

    $O(k (n + m) (d + \log(n + m)))$ for k projections. Differentiable to every order in points,
    masses and `p`, where derivatives exist; the derivative at $SW_p = 0$ is 0.

    **Arguments:**

    - `x`, `y`: the points, shapes (n, d) and (m, d).
    - `a`, `b`: their masses, shapes (n,) and (m,), of one total; `None` is uniform of total 1.
    - `p`: the order, a finite number of at least 1 that may be traced.
    - `num_projections`: how many directions are drawn.
    - `key`: the key of `jax.random` that they are drawn with; see `random_directions`.
    - `chunk`: how many projections are held at once: memory is O((n + m) chunk), that of a
        gradient too. `None` is as many as have four million coordinates.

    **Returns:** the distance, in the unit of the points; NaN, with gradient zero, for points that
    are not finite, masses that are negative or not of one total, and a traced `p` below 1.

    **Raises:** `ValueError` for wrong shapes, dtypes and types, and for a known `p` below 1.
    """
    given = clouds(x, y, a, b)
    directions = random_directions(key, num_projections, given.x.shape[1], given.x.dtype)
    chunk = chunk_size(chunk, num_projections, given.x.shape[0] + given.y.shape[0])
    return _sliced_wasserstein(given, order(p, given.x.dtype), directions, chunk)


@eqx.filter_jit
def _sliced_wasserstein(
    given: Clouds, p: Float[Array, ""] | int, directions: Float[Array, "k d"], chunk: int
) -> Float[Array, ""]:
    p, p_valid = valid_order(p, given.x.dtype)
    valid, result = valid_clouds(given)
    costs, scales = for_each(
        lambda direction: slice_cost(valid, direction, p, given.matches), directions, chunk
    )
    largest = jnp.max(scales)
    mean = jnp.mean(costs * jnp.power(scales / largest, p))
    return real_or_nan(largest * root(mean, p), (result == RESULTS.successful) & p_valid)


def slice_cost(
    valid: ValidClouds, direction: Float[Array, " d"], p: Float[Array, ""] | int, matches: bool
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The cost between the projections at distances over the largest, and that one."""
    x, y = project(valid.x, direction), project(valid.y, direction)
    if matches:
        x, y = in_order(x), in_order(y)
    plan = matching_in_order(x) if matches else staircase(x, y, valid.a, valid.b)
    return scaled_cost(x, y, valid.a, valid.b, p, plan)
