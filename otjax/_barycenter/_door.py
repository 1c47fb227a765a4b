"""The door: measures in, their barycentre out."""

import equinox as eqx
import jax
import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from .._arrays import constant, count, float_array, float_scalar, optional_positive_number
from .._geometry import AbstractGeometry, PointCloud
from .._problem import Relative, valid_masses
from .._results import raise_unless_successful, RESULTS
from .._solver._base import rounding_floor
from . import _fixed, _free
from ._accelerated import FixedPoint
from ._objective import AbstractBarycenterObjective, Entropic


class Barycenter(eqx.Module):
    r"""The barycentre of measures. Differentiable in all that defines it.

    - `masses`: of its points, shape (m,), of the total that the measures have.
    - `points`: where these are, shape (m, d), if they were free to move; else `None`.
    - `value`: the weighted sum that it minimises, without the terms of each measure with itself,
      which do not depend on it.
    - `potentials`: those of the plans from each measure to it, shapes (k, n) and (k, m), without
      derivatives. The density of plan k is $\exp((f + g - C) / \epsilon)$ against $a_k$ and, on a
      fixed support, counting, or else against both masses.
    - `epsilon`: the number that was used.
    - `num_steps`, `error`: how many steps were taken, and the error that was left: on a fixed
      support the L1 distance of the plans' marginals from it, relative to its mass, and with
      `Debiased()` what the objective could fall by at most, in units of `epsilon` and mass; else
      how far points still moved, relative to how far the measures' points spread.
    - `result`: a member of `RESULTS`. Numbers are finite whatever it is.
    """

    masses: Float[Array, " m"]
    points: Float[Array, "m d"] | None
    value: Float[Array, ""]
    potentials: tuple[Float[Array, "k n"], Float[Array, "k m"]]
    epsilon: Float[Array, ""]
    num_steps: Int[Array, ""]
    error: Float[Array, ""]
    result: RESULTS


def barycenter(
    geometry: AbstractGeometry | ArrayLike,
    masses: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    *,
    epsilon: ArrayLike | Relative | None = None,
    objective: AbstractBarycenterObjective = Entropic(),
    support: ArrayLike | None = None,
    tolerance: ArrayLike | None = None,
    max_steps: int | Int[Array, ""] = 2000,
    throw: bool = True,
) -> Barycenter:
    r"""The measure of least weighted sum of distances to given ones,
    $\min_b \sum_k w_k D(a_k, b)$ (Agueh and Carlier 2011, doi:10.1137/100805741).

    On a fixed support, where masses move, by iterative Bregman projections in the log domain,
    accelerated, at falling epsilons. For clouds of points, whose barycentre is a cloud too, by
    steps of its points under the squared Euclidean distance. A batch is a `jax.vmap`.

    **Arguments:**

    - `geometry`: from the support of the measures to that of the barycentre, shape (n, m): any
        geometry, often one of a support with itself. Or the points of k clouds, shape (k, n, d).
    - `masses`: of the measures, shape (k, n), of one total; `None`, for clouds, is uniform.
    - `weights`: shape (k,), not negative, of any total; `None` is uniform.
    - `epsilon`: as for `EntropicProblem`. For clouds one that is `Relative` is so to the costs from
        all their points to `support`.
    - `objective`: `Entropic()` or `Debiased()`.
    - `support`: for clouds, where the points of the barycentre start, shape (m, d); their masses
        are uniform. `None` starts from the cloud of largest weight.
    - `tolerance`: the `error` of a `Barycenter` at which to stop. `None` is 1e-4 in float32 (for
        clouds 1e-3) and 1e-6 in float64, or what rounding allows, if that is more; on a fixed
        support with `Debiased()` 5e-3, as the last pixels empty slowly.
    - `max_steps`: the largest number of steps.
    - `throw`: whether a result other than `successful` raises; otherwise it is returned.

    **Returns:** a `Barycenter`.

    **Raises:** `ValueError` for arguments of the wrong kind; a `RuntimeError` that says what to
    change if the search does not converge or numbers are invalid, and `throw` is true.
    """
    if not isinstance(objective, AbstractBarycenterObjective):
        raise ValueError(f"`objective` must be `Entropic()` or `Debiased()`, got {objective!r}.")
    tolerance = optional_positive_number(tolerance, "tolerance")
    limit = count(max_steps, "max_steps")
    if isinstance(geometry, AbstractGeometry):
        if support is not None:
            raise ValueError(
                "`support` is for clouds of points; the geometry already says where the barycentre "
                "lives."
            )
        n, m = geometry.shape
        if objective.debiased and n != m:
            raise ValueError(
                "`Debiased()` needs a geometry of one support with itself, got shape "
                f"{geometry.shape}; pass `Entropic()`."
            )
        if masses is None:
            raise ValueError("`masses` must be given, shape (k, n): one histogram for each row.")
        masses = float_array(masses, "masses", "k n").astype(geometry.dtype)
        points = None
    else:
        points = float_array(geometry, "geometry", "k n d")
        n = points.shape[1]
        if masses is None:
            masses = jnp.full(points.shape[:2], 1 / n, points.dtype)
        masses = float_array(masses, "masses", "k n").astype(points.dtype)
        if masses.shape[0] != points.shape[0]:
            raise ValueError(
                f"`masses` must have a row for each cloud, {points.shape[0]}, got {masses.shape}."
            )
    if masses.shape[1] != n:
        raise ValueError(f"`masses` must have shape (k, {n}), got {masses.shape}.")
    k, dtype = masses.shape[0], masses.dtype
    weights = jnp.full((k,), 1 / k, dtype) if weights is None else weights
    weights = float_array(weights, "weights", "k").astype(dtype)
    if weights.shape != (k,):
        raise ValueError(
            f"`weights` must have one number for each measure, shape ({k},), got {weights.shape}."
        )
    epsilon = Relative() if epsilon is None else epsilon
    if not isinstance(epsilon, Relative):
        epsilon = float_scalar(epsilon, "epsilon", dtype)
    if points is None:
        found = _of_histograms(geometry, masses, weights, epsilon, objective, tolerance, limit)
    else:
        if support is not None:
            support = float_array(support, "support", "m d").astype(dtype)
            if support.shape[1] != points.shape[2]:
                raise ValueError(
                    f"`support` must be of the space of the clouds, of dimension "
                    f"{points.shape[2]}, got {support.shape[1]}."
                )
        found = _of_clouds(points, support, masses, weights, epsilon, objective, tolerance, limit)
    if throw:
        found = raise_unless_successful(found, found.result)
    return found


@eqx.filter_jit
def _of_histograms(geometry, masses, weights, epsilon, objective, tolerance, limit) -> Barycenter:
    a, total, weights, result = _valid_measures(masses, weights)
    m = geometry.shape[1]
    mean = jnp.matmul(weights, a, precision=lax.Precision.HIGHEST)
    if objective.debiased:
        # A pixel that is empty in all measures is one of the barycentre, whose plan with itself has
        # it on both sides.
        mean = jnp.maximum(mean, jnp.finfo(a.dtype).tiny)
    prepared = geometry.prepare(mean, jnp.full((m,), 1 / m, a.dtype))
    spread, unit = prepared.mean - prepared.least, jnp.asarray(prepared.unit, a.dtype)
    epsilon, result = _valid_epsilon(epsilon, spread, unit, result)
    result = RESULTS.where(prepared.finite, result, RESULTS.nonfinite_input)
    problem = _fixed.Histograms(prepared.geometry, a, weights, epsilon, objective.debiased)
    size = 4 * (jnp.abs(prepared.mean) + spread)
    if tolerance is None and objective.debiased:
        tolerance = jnp.asarray(5e-3, a.dtype)
    tolerance = _tolerance(tolerance, 1e-4, size, epsilon)
    g, found = _fixed.search(constant(problem), spread, tolerance, limit)
    g = _fixed.attach(problem, lax.stop_gradient(g))
    f, b = _fixed.masses_of(problem, g)
    cost = jnp.matmul(weights, jnp.sum(a * f, axis=1), precision=lax.Precision.HIGHEST)
    value, potentials = unit * total * cost, (unit * f, unit * g)
    return _answer(found, total * b, None, value, potentials, unit * epsilon, tolerance, result)


@eqx.filter_jit
def _of_clouds(
    points, support, masses, weights, epsilon, objective, tolerance, limit
) -> Barycenter:
    a, total, weights, result = _valid_measures(masses, weights)
    finite = jnp.all(jnp.isfinite(points) | (a == 0)[:, :, None])
    # A point of mass zero does not exist, wherever it is.
    heaviest = jax.vmap(lambda x, a: x[jnp.argmax(a)])(points, lax.stop_gradient(a))
    points = jnp.where((a > 0)[:, :, None], points, lax.stop_gradient(heaviest)[:, None, :])
    points = jnp.where(finite, points, 0)
    start = points[jnp.argmax(weights)] if support is None else support
    finite &= jnp.all(jnp.isfinite(start))
    start = lax.stop_gradient(jnp.where(finite, start, 0))
    m, flat = start.shape[0], points.reshape(-1, points.shape[2])
    b = jnp.full((m,), 1 / m, a.dtype)
    shares = (weights[:, None] * a).reshape(-1)
    costs = PointCloud(flat, start).prepare(shares, b)
    spread, unit = costs.mean - costs.least, jnp.asarray(costs.unit, a.dtype)
    epsilon, result = _valid_epsilon(epsilon, spread, unit, result)
    epsilon = unit * epsilon
    result = RESULTS.where(finite & costs.finite, result, RESULTS.nonfinite_input)
    problem = _free.Clouds(points, a, weights, b, epsilon, objective.debiased)
    size = 4 * (jnp.abs(costs.mean) + spread) * unit
    tolerance = _tolerance(tolerance, 1e-3, size, epsilon)
    found = _free.search(constant(problem), start, tolerance, limit)
    y = lax.stop_gradient(found.point).reshape(start.shape)
    y = _free.attach(problem, y, found.warm)
    cross, own = _free.solutions(problem, y, found.warm, 0.1 * tolerance)
    cost = jnp.sum(weights * cross.value) - (0 if own is None else 0.5 * own.value)
    return _answer(found, total * b, y, total * cost, cross.potentials, epsilon, tolerance, result)


def _answer(
    found: FixedPoint, masses, points, value, potentials, epsilon, tolerance, result
) -> Barycenter:
    ended = RESULTS.where(found.stalled, RESULTS.stagnated, RESULTS.max_steps_reached)
    ended = RESULTS.where(found.error <= tolerance, RESULTS.successful, ended)
    return Barycenter(
        masses=masses,
        points=points,
        value=value,
        potentials=lax.stop_gradient(potentials),
        epsilon=epsilon,
        num_steps=found.num_steps,
        error=found.error,
        result=RESULTS.where(result == RESULTS.successful, ended, result),
    )


def _valid_measures(masses: Float[Array, "k n"], weights: Float[Array, " k"]):
    """Measures of total 1, the total they had, weights of sum 1, and what was wrong with them."""
    a, valid = jax.vmap(valid_masses)(masses)
    totals = jnp.sum(a, axis=1)
    total = jnp.mean(totals)
    rounding = 1e-4 if a.dtype == jnp.float32 else 1e-6
    same = jnp.all(jnp.abs(totals / total - 1) <= rounding)
    sum_of_weights = jnp.sum(weights)
    weights_valid = jnp.all(weights >= 0) & (sum_of_weights > 0) & (sum_of_weights < jnp.inf)
    weights = jnp.where(weights_valid, jnp.where(weights > 0, weights, 0), 1)
    result = RESULTS.where(same, RESULTS.successful, RESULTS.unequal_mass)
    result = RESULTS.where(weights_valid, result, RESULTS.invalid_weights)
    result = RESULTS.where(jnp.all(valid), result, RESULTS.invalid_mass)
    return a / totals[:, None], total, weights / jnp.sum(weights), result


def _valid_epsilon(
    epsilon, spread: Float[Array, ""], unit: Float[Array, ""], result: RESULTS
) -> tuple[Float[Array, ""], RESULTS]:
    """`epsilon` divided by the `unit` of the costs, as of `spread`."""
    number = epsilon.times(spread) if isinstance(epsilon, Relative) else epsilon / unit
    valid = (number > 0) & (number < jnp.sqrt(jnp.finfo(number.dtype).max))
    return jnp.where(valid, number, 1), RESULTS.where(valid, result, RESULTS.invalid_epsilon)


def _tolerance(
    tolerance: Float[Array, ""] | None,
    single: float,
    size: Float[Array, ""],
    epsilon: Float[Array, ""],
) -> Float[Array, ""]:
    """The tolerance; by default at least what rounding of potentials of this `size` allows."""
    if tolerance is None:
        least = single if size.dtype == jnp.float32 else 1e-6
        return jnp.clip(8 * rounding_floor(epsilon, size), least, max(least, 1e-2))
    return tolerance.astype(size.dtype)
