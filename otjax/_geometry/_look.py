"""What a look at all points and costs tells, before anything is solved."""

import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from .._ground_cost import pairwise
from .._reduction import by_rows, Pairs
from .._unit import power_of_two


def look_at_rows(
    pairs: Pairs, a: Float[Array, " n"], b: Float[Array, " m"]
) -> tuple[Float[Array, ""], Float[Array, " n"], Float[Array, ""]]:
    """The mean cost of allowed pairs, the least of each row, and the largest of all: infinity if
    there are forbidden ones. In one pass."""
    a, b = lax.stop_gradient((a / jnp.sum(a), b / jnp.sum(b)))

    def of_rows(x: Float[Array, "k d"]) -> tuple[Array, Array, Array]:
        cost = pairwise(pairs.cost, x, pairs.y)
        # A NaN stays one.
        mean = jnp.sum(jnp.where(cost == jnp.inf, 0, cost) * b[None, :], axis=1)
        return mean, jnp.min(cost, axis=1), jnp.max(cost, axis=1)

    means, least, most = by_rows(of_rows, pairs.x, pairs.shape[1])
    return jnp.sum(a * means), least, jnp.max(most)


def share_of_allowed(
    pairs: Pairs, a: Float[Array, " n"], b: Float[Array, " m"]
) -> Float[Array, ""]:
    """The share of the product of two measures on pairs that are allowed; 1 if none is."""
    a, b = lax.stop_gradient((a / jnp.sum(a), b / jnp.sum(b)))

    def of_rows(x: Float[Array, "k d"]) -> Array:
        return jnp.sum(
            jnp.where(pairwise(pairs.cost, x, pairs.y) == jnp.inf, 0, b[None, :]), axis=1
        )

    share = jnp.sum(a * by_rows(of_rows, pairs.x, pairs.shape[1]))
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
