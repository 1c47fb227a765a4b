"""What every regression on paths is made of: pairs, times, and where the paths are then."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, ArrayLike, Bool, Float

from ._batches import all_finite, cleaned, nan_unless, two_batches
from ._coupling import AbstractCoupling, check_condition
from ._interpolant import AbstractInterpolant
from ._pairs import Pairs


class Paths(eqx.Module):
    """Points on paths between pairs, one for each pair.

    - `pairs`: what the coupling returned.
    - `given`: time, start, end and noise of each: what an interpolant takes.
    - `positions`: where the paths are, shape (k, ...).
    - `conditions`: what the ends come with: one array, or none.
    - `valid`: whether all input is finite.
    """

    pairs: Pairs
    given: tuple[
        Float[Array, " k"], Float[Array, "k ..."], Float[Array, "k ..."], Float[Array, "k ..."]
    ]
    positions: Float[Array, "k ..."]
    conditions: tuple[Array, ...]
    valid: Bool[Array, ""]

    @property
    def seen(self) -> tuple[Array, ...]:
        """What a field reads: times, positions and conditions."""
        return (self.given[0], self.positions, *self.conditions)

    def loss(self, residuals: Float[Array, "k ..."]) -> Float[Array, ""]:
        """The mean of the squared norms; NaN with gradient zero for input that is not finite."""
        return nan_unless(self.valid, jnp.sum(jnp.square(residuals)) / len(residuals))


def draw_paths(
    key: Array,
    x0: ArrayLike,
    x1: ArrayLike,
    condition: ArrayLike | None,
    coupling: AbstractCoupling,
    interpolant: AbstractInterpolant,
) -> Paths:
    """Pairs by the coupling, uniform times, and points on the paths of the interpolant.

    **Raises:** `ValueError`, naming the argument.
    """
    x0, x1 = two_batches(x0, x1, ("x0", "x1"))
    if not isinstance(coupling, AbstractCoupling):
        raise ValueError(f"`coupling` must be a coupling such as `Minibatch()`, got {coupling!r}.")
    if not isinstance(interpolant, AbstractInterpolant):
        raise ValueError(
            f"`interpolant` must be an interpolant such as `Linear()`, got {interpolant!r}."
        )
    key_pairs, key_times, key_noise = jr.split(key, 3)
    valid = all_finite(x0, x1)
    conditions = ()
    if condition is not None:
        condition = jnp.asarray(condition)
        check_condition(condition, len(x1))
        valid = valid & all_finite(condition)
        conditions = (cleaned(condition, valid),)
    pairs = coupling.pairs(key_pairs, x0, x1, condition)
    starts, ends = cleaned(x0, valid)[pairs.i], cleaned(x1, valid)[pairs.j]
    margin = interpolant.margin.astype(x0.dtype)
    times = margin + (1 - 2 * margin) * jr.uniform(key_times, (len(pairs.i),), x0.dtype)
    given = times, starts, ends, jr.normal(key_noise, starts.shape, x0.dtype)
    positions = jax.vmap(interpolant.position)(*given)
    return Paths(pairs, given, positions, tuple(one[pairs.j] for one in conditions), valid)
