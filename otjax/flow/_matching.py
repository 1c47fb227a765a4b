"""The regression that trains a velocity field."""

from typing import Literal, overload

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, ArrayLike, Float

from ._batches import all_finite, checked_velocity, cleaned, nan_unless, two_batches, Velocity
from ._coupling import AbstractCoupling, check_condition, Independent
from ._interpolant import AbstractInterpolant, Linear
from ._pairs import Pairs


@overload
def velocity_loss(
    velocity: Velocity,
    key: Array,
    x0: ArrayLike,
    x1: ArrayLike,
    condition: ArrayLike | None = None,
    *,
    coupling: AbstractCoupling = Independent(),
    interpolant: AbstractInterpolant | None = None,
    has_aux: Literal[False] = False,
) -> Float[Array, ""]: ...


@overload
def velocity_loss(
    velocity: Velocity,
    key: Array,
    x0: ArrayLike,
    x1: ArrayLike,
    condition: ArrayLike | None = None,
    *,
    coupling: AbstractCoupling = Independent(),
    interpolant: AbstractInterpolant | None = None,
    has_aux: Literal[True],
) -> tuple[Float[Array, ""], Pairs]: ...


@eqx.filter_jit
def velocity_loss(
    velocity: Velocity,
    key: Array,
    x0: ArrayLike,
    x1: ArrayLike,
    condition: ArrayLike | None = None,
    *,
    coupling: AbstractCoupling = Independent(),
    interpolant: AbstractInterpolant | None = None,
    has_aux: bool = False,
) -> Float[Array, ""] | tuple[Float[Array, ""], Pairs]:
    r"""The loss of flow matching: how far a velocity field is from the velocities of paths,

    $$\mathbb{E} \left\| v(t, x_t) - \dot x_t \right\|^2,$$

    with $t$ uniform, ends paired by `coupling`, and the path $x_t$ between them by `interpolant`
    (Lipman et al. 2022, arXiv:2210.02747; Tong et al. 2023, arXiv:2302.00482). Squares are summed
    over the coordinates of a sample and averaged over pairs. The field that minimises it carries
    the law of `x0` to that of `x1`. Its minimum is not zero: it is what paths that cross leave, and
    less for pairs that are near.

    Invalid input (NaN or infinite samples) gives NaN, with gradient zero.

    **Arguments:**

    - `velocity`: maps a time and one sample, `(t, x)`, or `(t, x, condition)` where there is one,
        to the velocity, like the sample; it is vmapped here. Any callable pytree.
    - `key`: a key of `jax.random`, a new one for each step.
    - `x0`, `x1`: samples of the start and of the end, shapes (n, ...) and (m, ...).
    - `condition`: what each sample of the end comes with, such as its label, axes (m, ...).
    - `coupling`: `Independent()`, `Paired()`, `Minibatch(...)` or `Conditional(...)`.
    - `interpolant`: `Linear(...)`, `BrownianBridge(sigma)` or `Trigonometric()`; `None`
        is `Linear()`.
    - `has_aux`: whether to return the `Pairs` as well, which tell how good the coupling was.

    **Returns:** the loss, in the squared unit of the samples; with `has_aux` the pair of it and the
    pairs.

    **Raises:** `ValueError` for wrong shapes, dtypes and types.
    """
    x0, x1 = two_batches(x0, x1, ("x0", "x1"))
    interpolant = Linear() if interpolant is None else interpolant
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
    paths = times, starts, ends, jr.normal(key_noise, starts.shape, x0.dtype)
    positions = jax.vmap(interpolant.position)(*paths)
    targets = jax.vmap(interpolant.velocity)(*paths)
    at_pairs = (one[pairs.j] for one in conditions)
    velocities = jax.vmap(checked_velocity(velocity))(times, positions, *at_pairs)
    loss = nan_unless(valid, jnp.sum(jnp.square(velocities - targets)) / len(pairs.i))
    return (loss, pairs) if has_aux else loss
