"""What a look at all points and costs tells, before anything is solved."""

import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from .._ground_cost import pairwise, SqEuclidean
from .._reduction import map_pairs, Pairs
from .._unit import power_of_two


def look_at_all(
    pairs: Pairs, a: Float[Array, " n"], b: Float[Array, " m"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The mean and the least of costs that are finite: of squared distances the mean without a look
    at the pairs."""
    if not isinstance(pairs.cost, SqEuclidean):
        mean, least, _ = look_at_rows(pairs, a, b)
        return mean, jnp.min(least)
    a, b = lax.stop_gradient((a / jnp.sum(a), b / jnp.sum(b)))
    # About the mean of one side the means of both do not cancel what is left.
    centre = jnp.sum(b[:, None] * pairs.y, axis=0, keepdims=True)
    x, y = pairs.x - centre, pairs.y - centre
    of_squares = lambda points, masses: jnp.sum(masses * jnp.sum(jnp.square(points), axis=1))
    of_x, of_y = (jnp.sum(masses[:, None] * p, axis=0) for p, masses in ((x, a), (y, b)))
    mean = of_squares(x, a) + of_squares(y, b) - 2 * jnp.sum(of_x * of_y)
    return mean, jnp.min(map_pairs(lambda pairs: jnp.min(pairs.matrix(), axis=1), pairs))


def look_at_rows(
    pairs: Pairs, a: Float[Array, " n"], b: Float[Array, " m"]
) -> tuple[Float[Array, ""], Float[Array, " n"], Float[Array, ""]]:
    """The mean cost of allowed pairs, the least of each row, and the largest of all: infinity if
    there are forbidden ones. In one pass."""
    a, b = lax.stop_gradient((a / jnp.sum(a), b / jnp.sum(b)))

    def of_rows(pairs: Pairs) -> tuple[Array, Array, Array]:
        cost = pairwise(pairs.cost, pairs.x, pairs.y)
        # A NaN stays one.
        mean = jnp.sum(jnp.where(cost == jnp.inf, 0, cost) * b[None, :], axis=1)
        return mean, jnp.min(cost, axis=1), jnp.max(cost, axis=1)

    means, least, most = map_pairs(of_rows, pairs)
    return jnp.sum(a * means), least, jnp.max(most)


def share_of_allowed(
    pairs: Pairs, a: Float[Array, " n"], b: Float[Array, " m"]
) -> Float[Array, ""]:
    """The share of the product of two measures on pairs that are allowed; 1 if none is."""
    a, b = lax.stop_gradient((a / jnp.sum(a), b / jnp.sum(b)))

    def of_rows(pairs: Pairs) -> Array:
        forbidden = pairwise(pairs.cost, pairs.x, pairs.y) == jnp.inf
        return jnp.sum(jnp.where(forbidden, 0, b[None, :]), axis=1)

    share = jnp.sum(a * map_pairs(of_rows, pairs))
    return jnp.where(share > 0, share, 1)


def extent(clouds: tuple[tuple[Float[Array, "_ d"], Float[Array, " _"]], ...]) -> Float[Array, ""]:
    """The largest side of the box around all points that have a mass."""

    def furthest(sign: int) -> Float[Array, " d"]:
        ends = [
            jnp.max(jnp.where((masses > 0)[:, None], sign * points, -jnp.inf), axis=0)
            for points, masses in clouds
        ]
        return jnp.maximum(*ends)

    return jnp.max(furthest(1) + furthest(-1))


def unit_of(
    exponent: Int[Array, ""], power: int | Float[Array, ""], dtype: jnp.dtype
) -> Float[Array, ""]:
    """What costs are multiplied by where points are by a power of two."""
    if isinstance(power, int):
        return power_of_two(power * exponent, dtype)
    return jnp.exp2(power.astype(dtype) * exponent.astype(dtype))
