"""Steps of Jordan, Kinderlehrer and Otto, through convex functions."""

from collections.abc import Callable
from typing import Literal, overload

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float

from .._arrays import constant, float_array, positive_number
from .._results import RESULTS
from ._batches import all_finite, cleaned, nan_unless
from ._energies import checked_potential
from ._interpolant import not_negative


Convex = Callable[[Array], Array]


class ConvexStep(eqx.Module):
    r"""Where the gradient of a convex function sends particles.

    - `samples`: $\nabla \psi(x)$, shape (n, d).
    - `log_volume`: $\log \det \nabla^2 \psi(x)$, shape (n,): the log-density of a particle falls by
      it. NaN where the function is not strictly convex.
    - `result`: `successful`, or `not_convex`, or `nonfinite_input`.
    """

    samples: Float[Array, "n d"]
    log_volume: Float[Array, " n"]
    result: RESULTS


@eqx.filter_jit
def convex_step(convex: Convex, x: ArrayLike) -> ConvexStep:
    r"""Moves particles by the gradient of a convex function, with what their densities lose.

    Steps one after the other carry particles and log-densities through a whole flow.

    **Arguments:**

    - `convex`: a smooth convex function of one point, such as `otjax.nn.ICNN`; it is vmapped here.
    - `x`: the particles, shape (n, d).

    **Returns:** a `ConvexStep`.

    **Raises:** `ValueError` for wrong shapes, dtypes and types.
    """
    x = float_array(x, "x", "n d")
    function = _checked_convex(convex)
    valid = all_finite(x)
    x = cleaned(x, valid)
    samples = jax.vmap(jax.grad(function))(x)
    log_volume, definite = jax.vmap(lambda x: _log_det(jax.hessian(function)(x)))(x)
    result = RESULTS.where(jnp.all(definite), RESULTS.successful, RESULTS.not_convex)
    return ConvexStep(samples, log_volume, RESULTS.where(valid, result, RESULTS.nonfinite_input))


def _log_det(hessian: Float[Array, "d d"]) -> tuple[Float[Array, ""], Bool[Array, ""]]:
    """By Cholesky's factor, which exists of positive definite matrices alone."""
    symmetric = 0.5 * (hessian + hessian.T)
    definite = jnp.all(jnp.isfinite(jnp.linalg.cholesky(constant(symmetric))))
    # Once more, so that no derivative meets a factor that does not exist.
    safe = jnp.where(definite, symmetric, jnp.eye(len(hessian), dtype=hessian.dtype))
    diagonal = jnp.diagonal(jnp.linalg.cholesky(safe))
    return jnp.where(definite, 2 * jnp.sum(jnp.log(diagonal)), jnp.nan), definite


def _checked_convex(convex: Convex) -> Convex:
    if not callable(convex):
        raise ValueError(f"`convex` must be a callable of one point, got {convex!r}.")

    def checked(x: Array) -> Array:
        value = convex(x)
        if jnp.shape(value) != () or jnp.result_type(value) != x.dtype:
            raise ValueError(
                f"`convex` must map a point of shape {x.shape} to a scalar of its dtype, "
                f"{x.dtype}, got shape {jnp.shape(value)} and dtype {jnp.result_type(value)}."
            )
        return value

    return checked


@overload
def jko_loss(
    convex: Convex,
    x: ArrayLike,
    potential: Callable[[Array], Array],
    *,
    step: ArrayLike,
    temperature: ArrayLike = 1.0,
    has_aux: Literal[False] = False,
) -> Float[Array, ""]: ...


@overload
def jko_loss(
    convex: Convex,
    x: ArrayLike,
    potential: Callable[[Array], Array],
    *,
    step: ArrayLike,
    temperature: ArrayLike = 1.0,
    has_aux: Literal[True],
) -> tuple[Float[Array, ""], ConvexStep]: ...


@eqx.filter_jit
def jko_loss(
    convex: Convex,
    x: ArrayLike,
    potential: Callable[[Array], Array],
    *,
    step: ArrayLike,
    temperature: ArrayLike = 1.0,
    has_aux: bool = False,
) -> Float[Array, ""] | tuple[Float[Array, ""], ConvexStep]:
    r"""The loss of a proximal step in the space of measures (Jordan, Kinderlehrer and Otto 1998),
    by the gradient of a convex function (Mokrov et al. 2021, arXiv:2106.00736),

    $$\frac{1}{2 h} \mathbb{E} \|x - \nabla \psi(x)\|^2 + \mathbb{E} V(\nabla \psi(x))
      - T\, \mathbb{E} \log \det \nabla^2 \psi(x).$$

    Its minimum is the implicit step of length $h$ of the Fokker-Planck equation $\dot \rho =
    \nabla \cdot (\rho \nabla V) + T \Delta \rho$: that of the energy $\int V \rho + T \int \rho
    \log \rho$, whose change it is, with the squared distance that has been gone. Particles stand
    for the density; the entropy needs no estimate of it.

    Invalid input (NaN or infinite particles) and a function that is not strictly convex give NaN,
    with gradient zero.

    **Arguments:**

    - `convex`: a smooth, strictly convex function of one point, such as `otjax.nn.ICNN` with
        `strong_convexity`; it is vmapped here. Any callable pytree.
    - `x`: particles of the density before the step, shape (n, d).
    - `potential`: V, maps one point to a scalar; it is vmapped here.
    - `step`: the time h, positive.
    - `temperature`: T, not negative.
    - `has_aux`: whether to return the `ConvexStep` as well.

    **Returns:** the loss, in the unit of the potential; with `has_aux` the pair of it and the step.

    **Raises:** `ValueError` for wrong shapes, dtypes and types.
    """
    x = float_array(x, "x", "n d")
    step = positive_number(step, "step", x.dtype)
    temperature = not_negative(temperature, "temperature").astype(x.dtype)
    found = convex_step(convex, x)
    valid = found.result == RESULTS.successful
    moved = cleaned(found.samples, valid)
    way = jnp.mean(jnp.sum(jnp.square(moved - cleaned(x, valid)), axis=1))
    energy = jnp.mean(jax.vmap(checked_potential(potential))(moved))
    loss = way / (2 * step) + energy - temperature * jnp.mean(cleaned(found.log_volume, valid))
    loss = nan_unless(valid, loss)
    return (loss, found) if has_aux else loss
