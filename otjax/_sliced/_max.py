"""The max-sliced Wasserstein distance: the direction that tells two clouds apart best."""

from typing import Literal, overload

import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.lax as lax
import jax.numpy as jnp
import optax
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from .._line._distance import real_or_nan
from .._line._power import order, root, valid_order
from .._results import RESULTS
from .._varying import scan
from ._directions import random_directions, unit
from ._distance import slice_cost
from ._measure import Clouds, clouds, valid_clouds, ValidClouds


class SphereAscent(eqx.Module):
    """Projected gradient ascent on the unit sphere, from several random starts at once."""

    num_starts: int
    num_steps: int
    optimiser: optax.GradientTransformation | None

    def __init__(
        self,
        *,
        num_starts: int = 8,
        num_steps: int = 100,
        optimiser: optax.GradientTransformation | None = None,
    ):
        """**Arguments:**

        - `num_starts`: how many directions the search starts from.
        - `num_steps`: how many steps it takes from each; the best direction met is kept.
        - `optimiser`: makes a step of a gradient along the sphere; `None` is Adam with a learning
            rate that falls from 0.3 radians to 0. (Make it once: another one compiles anew.)

        **Raises:** `ValueError` for numbers that are not positive.
        """
        for name, number in (("num_starts", num_starts), ("num_steps", num_steps)):
            if not isinstance(number, int) or number < 1:
                raise ValueError(f"`{name}` must be a positive integer, got {number!r}.")
        self.num_starts = num_starts
        self.num_steps = num_steps
        self.optimiser = optimiser


class MaxSlice(eqx.Module):
    """What the search for the best direction found.

    - `direction`: the best direction, a unit vector, shape (d,).
    - `distances`: the largest distance met from each start, shape (num_starts,). Where few of
      them agree with the best, more starts may find a better one.
    """

    direction: Float[Array, " d"]
    distances: Float[Array, " k"]


@overload
def max_sliced_wasserstein(
    x: ArrayLike,
    y: ArrayLike,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    p: ArrayLike = 2,
    search: SphereAscent = SphereAscent(),
    key: PRNGKeyArray,
    has_aux: Literal[False] = False,
) -> Float[Array, ""]: ...


@overload
def max_sliced_wasserstein(
    x: ArrayLike,
    y: ArrayLike,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    p: ArrayLike = 2,
    search: SphereAscent = SphereAscent(),
    key: PRNGKeyArray,
    has_aux: Literal[True],
) -> tuple[Float[Array, ""], MaxSlice]: ...


def max_sliced_wasserstein(
    x: ArrayLike,
    y: ArrayLike,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    p: ArrayLike = 2,
    search: SphereAscent = SphereAscent(),
    key: PRNGKeyArray,
    has_aux: bool = False,
) -> Float[Array, ""] | tuple[Float[Array, ""], MaxSlice]:
    r"""The max-sliced Wasserstein distance $\max_\theta W_p(\theta \cdot x, \theta \cdot y)$
    (Deshpande et al. 2019, arXiv:1904.05877).

    The maximum is not concave: what is returned is the distance along the best direction that the
    search met, a lower bound. Differentiable once in points, masses and `p`, with the direction
    held fixed (Danskin's theorem); a second derivative is refused.

    **Arguments:**

    - `x`, `y`: the points, shapes (n, d) and (m, d).
    - `a`, `b`: their masses, shapes (n,) and (m,), of one total; `None` is uniform of total 1.
    - `p`: the order, a finite number of at least 1 that may be traced.
    - `search`: how directions are searched.
    - `key`: the key of `jax.random` that the search's first directions are drawn with.
    - `has_aux`: whether to return what the search found as well.

    **Returns:** the distance, in the unit of the points; NaN, with gradient zero, for points that
    are not finite, masses that are negative or not of one total, and a traced `p` below 1. With
    `has_aux` the pair of it and a `MaxSlice`.

    **Raises:** `ValueError` for wrong shapes, dtypes and types, and for a known `p` below 1.
    """
    given = clouds(x, y, a, b)
    if not isinstance(search, SphereAscent):
        raise ValueError(f"`search` must be a `SphereAscent(...)`, got {search!r}.")
    starts = random_directions(key, search.num_starts, given.x.shape[1], given.x.dtype)
    distance, found = _max_sliced(given, order(p, given.x.dtype), starts, search)
    return (distance, found) if has_aux else distance


@eqx.filter_jit
def _max_sliced(
    given: Clouds,
    p: Float[Array, ""] | int,
    starts: Float[Array, "k d"],
    search: SphereAscent,
) -> tuple[Float[Array, ""], MaxSlice]:
    p, p_valid = valid_order(p, given.x.dtype)
    valid, result = valid_clouds(given)
    fixed_p = p if isinstance(p, int) else lax.stop_gradient(p)
    found = _ascend(lax.stop_gradient(valid), fixed_p, given.matches, starts, search)
    distance = _danskin(valid, p, given.matches, found.direction)
    return real_or_nan(distance, (result == RESULTS.successful) & p_valid), found


def _ascend(
    valid: ValidClouds,
    p: Float[Array, ""] | int,
    matches: bool,
    starts: Float[Array, "k d"],
    search: SphereAscent,
) -> MaxSlice:
    """The best direction met on the way up from each start, and the best of these."""
    optimiser = search.optimiser
    if optimiser is None:
        optimiser = optax.adam(optax.cosine_decay_schedule(0.3, search.num_steps))
    slopes = jax.vmap(jax.value_and_grad(lambda direction: _distance(valid, p, matches, direction)))

    def step(carry, _):
        directions, state, best, best_distances = carry
        distances, slope = slopes(directions)
        better = distances > best_distances
        best = jnp.where(better[:, None], directions, best)
        outward = jnp.sum(slope * directions, axis=1, keepdims=True)
        # optax itself mixes dtypes.
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            updates, state = optimiser.update(outward * directions - slope, state, directions)
        return (
            unit(directions + updates),
            state,
            best,
            jnp.maximum(distances, best_distances),
        ), None

    none_yet = jnp.full_like(starts[:, 0], -jnp.inf)
    start = (starts, optimiser.init(starts), starts, none_yet)
    (_, _, best, distances), _ = scan(step, start, length=search.num_steps)
    return MaxSlice(best[jnp.argmax(distances)], distances)


def _distance(
    valid: ValidClouds, p: Float[Array, ""] | int, matches: bool, direction: Float[Array, " d"]
) -> Float[Array, ""]:
    cost, scale = slice_cost(valid, direction, p, matches)
    return scale * root(cost, p)


@eqx.filter_custom_jvp
def _danskin(valid, p, matches, direction):
    return _distance(valid, p, matches, direction)


@_danskin.def_jvp
def _danskin_jvp(primals, tangents):
    valid, p, matches, direction = primals
    # A second derivative would have to move the direction, and is refused.
    valid = eqxi.nondifferentiable(valid, name="the second derivative of a max-sliced distance")
    value, derivative = eqx.filter_jvp(
        lambda valid, p: _distance(valid, p, matches, direction), (valid, p), tangents[:2]
    )
    return value, jnp.zeros_like(value) if derivative is None else derivative
