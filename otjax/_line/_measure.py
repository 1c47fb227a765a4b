"""Pairs of weighted samples of the line: what is accepted, and what it is made into."""

import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float

from .._arrays import float_array
from .._results import RESULTS


def same_dtype(x: Float[Array, "..."], y: Float[Array, "..."]) -> None:
    """**Raises:** `ValueError` unless both are of one dtype."""
    if x.dtype != y.dtype:
        raise ValueError(
            f"`x` and `y` must have one dtype, got {x.dtype} (`x`) and {y.dtype} (`y`); cast one "
            "of them."
        )


def line_points(x: ArrayLike, y: ArrayLike) -> tuple[Float[Array, " n"], Float[Array, " m"]]:
    """The points of two samples of the line, as arrays."""
    x, y = float_array(x, "x", "points"), float_array(y, "y", "points")
    same_dtype(x, y)
    return x, y


def optional_masses(
    masses: ArrayLike | None, name: str, size: int, dtype: jnp.dtype
) -> Float[Array, " n"] | None:
    """The masses of a sample, as an array if there are any."""
    if masses is None:
        return None
    array = float_array(masses, name, "points").astype(dtype)
    if array.shape != (size,):
        raise ValueError(
            f"`{name}` must have one mass for each point, shape ({size},), got {array.shape}."
        )
    return array


def valid_masses(
    masses: Float[Array, " n"] | None, size: int, dtype: jnp.dtype
) -> tuple[Float[Array, " n"], Bool[Array, ""]]:
    """Masses to compute with (`None` is uniform of total 1), and whether the given ones were."""
    if masses is None:
        return jnp.full((size,), 1 / size, dtype), jnp.array(True)
    total = jnp.sum(masses)
    valid = jnp.all(masses >= 0) & (total > 0) & (total < jnp.inf)
    # A mass of zero has no derivative: the point does not exist.
    return jnp.where(valid, jnp.where(masses > 0, masses, 0), 1 / size), valid


def valid_points(
    x: Float[Array, " n"], masses: Float[Array, " n"]
) -> tuple[Float[Array, " n"], Bool[Array, ""]]:
    """Points to compute with, and whether those that have mass are finite.

    Points of mass zero are put where another point is, so that nothing depends on them.
    """
    alive, known = masses > 0, jnp.isfinite(x)
    x = jnp.where(known, x, 0)
    return jnp.where(alive, x, x[jnp.argmax(alive)]), jnp.all(known | ~alive)


def same_total(
    a: Float[Array, " n"], b: Float[Array, " m"]
) -> tuple[Float[Array, " m"], Bool[Array, ""]]:
    """The masses `b`, made to agree in total with `a`, and whether they did up to rounding."""
    ratio = lax.stop_gradient(jnp.sum(a) / jnp.sum(b))
    return b * ratio, jnp.abs(ratio - 1) <= (1e-4 if a.dtype == jnp.float32 else 1e-6)


def what_was_wrong(
    points: Bool[Array, ""], masses: Bool[Array, ""], totals: Bool[Array, ""]
) -> RESULTS:
    """The result of a computation on points, masses and totals, each valid or not."""
    result = RESULTS.where(points, RESULTS.successful, RESULTS.nonfinite_input)
    result = RESULTS.where(totals, result, RESULTS.unequal_mass)
    return RESULTS.where(masses, result, RESULTS.invalid_mass)


def valid_pair(
    x: Float[Array, " n"],
    y: Float[Array, " m"],
    a: Float[Array, " n"] | None,
    b: Float[Array, " m"] | None,
) -> tuple[tuple[Array, Array, Array, Array], RESULTS]:
    """Two measures `(x, y, a, b)` to compute with, and what was wrong with the given ones."""
    a, a_valid = valid_masses(a, x.shape[0], x.dtype)
    b, b_valid = valid_masses(b, y.shape[0], y.dtype)
    x, x_finite = valid_points(x, a)
    y, y_finite = valid_points(y, b)
    b, totals = same_total(a, b)
    return (x, y, a, b), what_was_wrong(x_finite & y_finite, a_valid & b_valid, totals)
