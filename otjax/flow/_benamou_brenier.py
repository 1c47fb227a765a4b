"""Transport between densities on a grid, through all times between."""

import equinox as eqx
import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from .._arrays import constant, count, float_array, positive_number
from .._control import in_turn
from .._results import RESULTS
from ._primal_dual import iterate


class DynamicSolution(eqx.Module):
    r"""A transport through time. Only `cost` is differentiable.

    - `cost`: $\int\int \|m\|^2 / \rho$, which is $W_2^2$ for densities of total mass 1.
    - `density`: at equally spaced times, both ends included, shape (times, n_1, ..., n_d), in the
      unit of the input.
    - `momentum`: at the centres of the cells of time, shape (times - 1, d, n_1, ..., n_d), in that
      unit times lengths of the cube per unit of time.
    - `source`: the rate at which mass appears, shape (times - 1, n_1, ..., n_d); None where it is
      conserved.
    - `num_steps`: the number of iterations.
    - `residual`: how far the two copies of the fields are apart, or the potential from optimality,
      whichever is more; relative.
    - `result`: a member of `RESULTS`.
    """

    cost: Float[Array, ""]
    density: Float[Array, "times ..."]
    momentum: Float[Array, "intervals d ..."]
    source: Float[Array, "intervals ..."] | None
    num_steps: Int[Array, ""]
    residual: Float[Array, ""]
    result: RESULTS


def benamou_brenier(
    a: ArrayLike,
    b: ArrayLike,
    *,
    num_times: int,
    growth: ArrayLike | None = None,
    obstacle: ArrayLike | None = None,
    tolerance: ArrayLike = 3e-4,
    max_steps: int | Int[Array, ""] = 3000,
) -> DynamicSolution:
    r"""Transport of one density to another as a flow of least kinetic energy (Benamou and Brenier
    2000):

    $$W_2^2(a, b) = \min_{\rho, m} \int_0^1 \int \frac{\|m\|^2}{\rho}, \qquad
      \partial_t \rho + \nabla \cdot m = 0, \quad \rho_0 = a, \quad \rho_1 = b,$$

    on a grid of the unit cube without flow through its walls. Space and time are staggered and the
    continuity equation is a projection by cosine transforms, after Papadakis, Peyré and Oudet
    (2014, arXiv:1304.5784); the iteration is primal-dual and over-relaxed. Never raises for values,
    and no number is NaN.

    The error of the grid falls as the squares of the cells' sizes: mass should move by no more than
    about the width of its features from time to time.

    **Arguments:**

    - `a`, `b`: densities or masses of the cells, shape (n_1, ..., n_d) with d up to 3, not
        negative. Only their shape counts: the cost is that of total mass 1.
    - `num_times`: how many densities to return, both ends included, at least 3.
    - `growth`: a length; mass may then appear and vanish, at the price
        $\int\int \text{growth}^2 \zeta^2 / \rho$ for the rate $\zeta$ (Wasserstein-Fisher-Rao;
        Chizat et al. 2015, arXiv:1506.06430): what is further apart than $\pi$ times it grows and
        decays in place. Masses may differ, and the cost is that of masses of mean 1.
    - `obstacle`: where no mass may be, booleans of shape (n_1, ..., n_d).
    - `tolerance`: the `residual` at which to stop.
    - `max_steps`: the largest number of iterations.

    **Returns:** a `DynamicSolution`. Its cost can be differentiated once, in the ends and in
    `growth`, with the flow held fixed (envelope theorem).

    **Raises:** `ValueError` for wrong shapes, dtypes and types.
    """
    a, b = _densities(a, b)
    if not isinstance(num_times, int) or num_times < 3:
        raise ValueError(f"`num_times` must be a whole number, at least 3, got {num_times!r}.")
    return _solve(
        a,
        b,
        num_times - 1,
        None if growth is None else positive_number(growth, "growth", a.dtype),
        _closed(obstacle, a.shape),
        constant(positive_number(tolerance, "tolerance", a.dtype)),
        count(max_steps, "max_steps"),
    )


@eqx.filter_jit
def _solve(
    a: Float[Array, "..."],
    b: Float[Array, "..."],
    num_intervals: int,
    growth: Float[Array, ""] | None,
    closed: Bool[Array, "..."] | None,
    tolerance: Float[Array, ""],
    max_steps: Int[Array, ""],
) -> DynamicSolution:
    length, a, b, unit, result = _usable(a, b, closed, growth)
    outcome = in_turn(
        iterate,
        *constant((a, b)),
        num_intervals,
        constant(length),
        closed,
        tolerance,
        max_steps,
    )()
    cost = outcome.cost
    for number, slope in zip((a, b, length), outcome.slopes, strict=True):
        if number is not None and slope is not None:
            cost = cost + jnp.sum(slope * (number - lax.stop_gradient(number)))
    reached = outcome.residual <= tolerance
    unit = lax.stop_gradient(unit)
    return DynamicSolution(
        cost=cost,
        density=unit * outcome.density,
        momentum=unit * jnp.stack(outcome.momenta, axis=1),
        source=None if outcome.source is None else unit * outcome.source,
        num_steps=outcome.num_steps,
        residual=outcome.residual,
        result=RESULTS.where(
            (result == RESULTS.successful) & ~reached, RESULTS.max_steps_reached, result
        ),
    )


def _densities(a: ArrayLike, b: ArrayLike) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    axes = " ".join(f"n_{k + 1}" for k in range(max(jnp.ndim(a), 1)))
    a = float_array(a, "a", axes)
    if a.ndim > 3 or min(a.shape) < 2:
        raise ValueError(
            "`a` must be a density on a grid of one to three axes with two cells at least, got "
            f"shape {a.shape}."
        )
    b = float_array(b, "b", axes)
    if b.shape != a.shape or b.dtype != a.dtype:
        raise ValueError(
            f"`b` must be on the grid of `a`, of shape {a.shape} and dtype {a.dtype}, got shape "
            f"{b.shape} and dtype {b.dtype}."
        )
    return a, b


def _closed(obstacle: ArrayLike | None, shape: tuple[int, ...]) -> Bool[Array, "..."] | None:
    if obstacle is None:
        return None
    closed = jnp.asarray(obstacle)
    if closed.shape != shape or closed.dtype != bool:
        raise ValueError(
            f"`obstacle` must hold a boolean for each cell, shape {shape}, got shape "
            f"{closed.shape} and dtype {closed.dtype}."
        )
    return closed


def _usable(
    a: Float[Array, "..."],
    b: Float[Array, "..."],
    closed: Bool[Array, "..."] | None,
    growth: Float[Array, ""] | None,
) -> tuple[
    Float[Array, ""] | None,
    Float[Array, "..."],
    Float[Array, "..."],
    Float[Array, ""],
    RESULTS,
]:
    """Numbers that can be worked with: the growth, the two ends as densities of mean one, and the
    unit that they had; and what was wrong."""
    valid, ends = jnp.array(True), []
    for density in (a, b):
        fits = jnp.all(jnp.isfinite(density) & (density >= 0))
        anywhere = jnp.ones_like(density)
        if closed is not None:
            fits = fits & ~jnp.any(closed & (density > 0))
            anywhere = jnp.where(closed & ~jnp.all(closed), 0, anywhere)
        fits = fits & (jnp.mean(density) > 0) & jnp.isfinite(jnp.mean(density))
        valid = valid & fits
        ends.append(jnp.where(fits, density, anywhere))
    means = jnp.mean(ends[0]), jnp.mean(ends[1])
    unit, result, length = 0.5 * (means[0] + means[1]), RESULTS.successful, None
    if growth is None:
        gap = jnp.abs(means[0] / means[1] - 1)
        equal = gap <= (1e-4 if a.dtype == jnp.float32 else 1e-6)
        result = RESULTS.where(equal, result, RESULTS.unequal_mass)
    else:
        means, positive = (unit, unit), (growth > 0) & jnp.isfinite(growth)
        length = jnp.where(positive, growth, 1)
        result = RESULTS.where(positive, result, RESULTS.invalid_growth)
    result = RESULTS.where(valid, result, RESULTS.invalid_mass)
    return length, ends[0] / means[0], ends[1] / means[1], unit, result
