"""Pairs of weighted point clouds that are to be projected."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from .._arrays import float_array
from .._line._measure import optional_masses, same_dtype, same_total, valid_masses, what_was_wrong
from .._results import RESULTS


class Clouds(eqx.Module):
    """Two weighted clouds of points of one space; masses `None` are uniform."""

    x: Float[Array, "n d"]
    y: Float[Array, "m d"]
    a: Float[Array, " n"] | None
    b: Float[Array, " m"] | None

    @property
    def matches(self) -> bool:
        """Whether there are as many points on either side, all of one mass."""
        return self.a is None and self.b is None and self.x.shape == self.y.shape


class ValidClouds(eqx.Module):
    """The same, of numbers to compute with."""

    x: Float[Array, "n d"]
    y: Float[Array, "m d"]
    a: Float[Array, " n"]
    b: Float[Array, " m"]


def clouds(x: ArrayLike, y: ArrayLike, a: ArrayLike | None, b: ArrayLike | None) -> Clouds:
    """The arguments of a sliced distance, as arrays."""
    x, y = float_array(x, "x", "n d"), float_array(y, "y", "m d")
    same_dtype(x, y)
    if x.shape[1] != y.shape[1]:
        raise ValueError(
            f"`x` and `y` must be points of the same space, got dimensions {x.shape[1]} (`x`) and "
            f"{y.shape[1]} (`y`)."
        )
    return Clouds(
        x,
        y,
        optional_masses(a, "a", x.shape[0], x.dtype),
        optional_masses(b, "b", y.shape[0], y.dtype),
    )


def valid_clouds(given: Clouds) -> tuple[ValidClouds, RESULTS]:
    """Clouds to compute with, and what was wrong with the given ones.

    Points of mass zero are put where another point is, so that nothing depends on them.
    """
    sides, finite, masses = [], [], []
    for points, mass in ((given.x, given.a), (given.y, given.b)):
        mass, valid = valid_masses(mass, points.shape[0], points.dtype)
        alive = mass > 0
        known = jnp.isfinite(points)
        finite.append(jnp.all(known | ~alive[:, None]))
        points = jnp.where(known, points, 0)
        sides.append((jnp.where(alive[:, None], points, points[jnp.argmax(alive)][None, :]), mass))
        masses.append(valid)
    (x, a), (y, b) = sides
    b, totals = same_total(a, b)
    result = what_was_wrong(finite[0] & finite[1], masses[0] & masses[1], totals)
    return ValidClouds(x, y, a, b), result
