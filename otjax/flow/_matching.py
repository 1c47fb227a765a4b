"""The regression that trains a velocity field."""

from typing import Literal, overload

import equinox as eqx
import jax
from jaxtyping import Array, ArrayLike, Float

from ._batches import checked_velocity, Velocity
from ._coupling import AbstractCoupling, Independent
from ._interpolant import AbstractInterpolant, Linear
from ._pairs import Pairs
from ._paths import draw_paths


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
    - `coupling`: `Independent()`, `Paired()`, `Minibatch(...)`, `Conditional(...)` or
        `Semidiscrete(...)`.
    - `interpolant`: `Linear(...)`, `BrownianBridge(sigma)` or `Trigonometric()`; `None`
        is `Linear()`.
    - `has_aux`: whether to return the `Pairs` as well, which tell how good the coupling was.

    **Returns:** the loss, in the squared unit of the samples; with `has_aux` the pair of it and the
    pairs.

    **Raises:** `ValueError` for wrong shapes, dtypes and types.
    """
    interpolant = Linear() if interpolant is None else interpolant
    paths = draw_paths(key, x0, x1, condition, coupling, interpolant)
    targets = jax.vmap(interpolant.velocity)(*paths.given)
    velocities = jax.vmap(checked_velocity(velocity))(*paths.seen)
    loss = paths.loss(velocities - targets)
    return (loss, paths.pairs) if has_aux else loss
