"""Semi-discrete transport: from a distribution that is known by its samples, to points."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.lax as lax
import jax.numpy as jnp
import jax.random as jr
import optax
from jaxtyping import Array, ArrayLike, Float, Int, PRNGKeyArray

from .._arrays import float_array, float_scalar, points_like, positive_number
from .._ground_cost import GroundCost, SqEuclidean
from .._problem import valid_masses
from .._results import raise_unless_successful, RESULTS
from .._varying import scan
from ._cells import Sites


class StochasticAscent(eqx.Module):
    """Stochastic gradient ascent on the semi-dual, with the last half of the iterates averaged
    (Genevay et al. 2016, arXiv:1605.08527; Polyak and Juditsky 1992, doi:10.1137/0330046)."""

    max_steps: int = eqx.field(static=True)
    num_tests: int = eqx.field(static=True)
    optimiser: optax.GradientTransformation | None

    def __init__(
        self,
        *,
        max_steps: int = 2000,
        num_tests: int = 400,
        optimiser: optax.GradientTransformation | None = None,
    ):
        """**Arguments:**

        - `max_steps`: how many steps are taken, each with new samples.
        - `num_tests`: how many batches the value and the error are then estimated with, at least 2.
        - `optimiser`: makes a step of the gradient, by any optax transformation. The potential that
            it moves is in units of the mean cost, and the gradient is what each site lacks,
            relative to its mass. `None` is Adam, with a rate that falls from 0.1 to 0. (Make it
            once: another one compiles anew.)

        **Raises:** `ValueError` for numbers out of range.
        """
        for name, number, least in (("max_steps", max_steps, 1), ("num_tests", num_tests, 2)):
            if isinstance(number, bool) or not isinstance(number, int) or number < least:
                raise ValueError(f"`{name}` must be at least {least}, got {number!r}.")
        self.max_steps, self.num_tests, self.optimiser = max_steps, num_tests, optimiser


class SemidiscreteSolution(eqx.Module):
    r"""Transport from a distribution to points, by the potential of the points. It carries no
    derivatives.

    - `potential_sites`: the potential $g$ of the sites, shape (m,), in the unit of the cost, with a
      mean of zero under their masses.
    - `value`: the estimate $\mathbb{E} f(x) + \langle b, g \rangle$ of the optimum, from below, on
      samples that were not trained on; `value_error` its standard error.
    - `masses`: the estimated mass that each site gets, shape (m,): at the optimum `b`.
    - `error`: the estimate, without bias under the root, of
      $\sqrt{\sum_j (m_j - b_j)^2 / b_j}$, with $m$ the masses that sites get in truth: no less than
      their L1 error.
    - `history`: the objective on each step's own batch, shape (max_steps,).
    - `result`: `successful` if `error` is within the tolerance.
    """

    potential_sites: Float[Array, " m"]
    value: Float[Array, ""]
    value_error: Float[Array, ""]
    masses: Float[Array, " m"]
    error: Float[Array, ""]
    history: Float[Array, " steps"]
    result: RESULTS
    sites: Sites

    @eqx.filter_jit
    def assign(self, x: ArrayLike) -> Int[Array, " k"]:
        """The site whose Laguerre cell each point of shape (k, d) is in; where there is an entropy,
        that of the largest probability."""
        return self.sites.cells(self._points(x), self.potential_sites)

    @eqx.filter_jit
    def transport(self, x: ArrayLike) -> Float[Array, "k d"]:
        """Where points of shape (k, d) go: to the site of their cell, or to the mean of the sites
        where there is an entropy."""
        return self.sites.means(self._points(x), self.potential_sites)

    @eqx.filter_jit
    def potential(self, x: ArrayLike) -> Float[Array, " k"]:
        """The potential $f$ of the distribution at points of shape (k, d)."""
        return self.sites.look(self._points(x), self.potential_sites)[0]

    def _points(self, x: ArrayLike) -> Float[Array, "k d"]:
        sites = self.sites.y
        return points_like(x, "x", sites.shape[1], sites.dtype)


def semidiscrete(
    sampler: Callable[[PRNGKeyArray], Array],
    y: ArrayLike,
    b: ArrayLike | None = None,
    *,
    key: PRNGKeyArray,
    epsilon: ArrayLike | None = None,
    cost: GroundCost = SqEuclidean(),
    tolerance: ArrayLike = 0.1,
    ascent: StochasticAscent = StochasticAscent(),
    throw: bool = True,
) -> SemidiscreteSolution:
    r"""Transport from the distribution of a sampler to points, by stochastic ascent on

    $$\max_g \mathbb{E}_x \min_j (c(x, y_j) - g_j) + \langle b, g \rangle,$$

    or with a soft minimum if there is an entropy: then it is the limit of `solve` for ever more
    samples. Memory is that of one batch against the points, a block of samples at a time.

    **Arguments:**

    - `sampler`: draws a batch of the distribution: a function of a key that returns points of shape
        (k, d). (The same object each time, lest all be compiled anew.)
    - `y`: the points, shape (m, d).
    - `b`: their masses, shape (m,), of any total; `None` is uniform. The total of both sides is 1.
    - `key`: of `jax.random`.
    - `epsilon`: the entropy's, in the unit of the cost; `None` is none: each sample goes to one
        point.
    - `cost`: a ground cost such as `SqEuclidean()`, or any callable (x_i, y_j) -> scalar.
    - `tolerance`: the `error` that counts as success.
    - `ascent`: how it is done.
    - `throw`: whether a result other than `successful` raises; otherwise it is returned.

    **Returns:** a `SemidiscreteSolution`.

    **Raises:** `ValueError` for arguments of the wrong kind; a `RuntimeError` that says what to
    change if the error is not reached or numbers are invalid, and `throw` is true.
    """
    y = float_array(y, "y", "m d")
    b = jnp.full(y.shape[:1], 1 / y.shape[0], y.dtype) if b is None else b
    b = float_array(b, "b", "points").astype(y.dtype)
    if b.shape != y.shape[:1]:
        raise ValueError(f"`b` must have one mass for each point, {y.shape[:1]}, got {b.shape}.")
    if not callable(sampler):
        raise ValueError(f"`sampler` must be a function of a key, got {sampler!r}.")
    if not isinstance(ascent, StochasticAscent):
        raise ValueError(f"`ascent` must be a `StochasticAscent(...)`, got {ascent!r}.")
    batch = jax.eval_shape(sampler, key)
    ndim = len(getattr(batch, "shape", ()))
    if ndim != 2 or batch.shape[1] != y.shape[1] or batch.dtype != y.dtype:
        raise ValueError(
            "`sampler` must return points like those of `y`, of shape (k, "
            f"{y.shape[1]}) and dtype {y.dtype}, got {batch}."
        )
    epsilon = None if epsilon is None else float_scalar(epsilon, "epsilon", y.dtype)
    tolerance = positive_number(tolerance, "tolerance", y.dtype)
    found = _semidiscrete(sampler, y, b, key, epsilon, cost, tolerance, ascent)
    if throw:
        found = raise_unless_successful(found, found.result)
    return found


@eqx.filter_jit
def _semidiscrete(sampler, y, b, key, epsilon, cost, tolerance, ascent) -> SemidiscreteSolution:
    b, b_valid = valid_masses(b)
    finite = jnp.all(jnp.isfinite(y) | (b == 0)[:, None])
    y = jnp.where(finite & (b > 0)[:, None], y, 0)
    epsilon_valid = jnp.array(True)
    if epsilon is not None:
        epsilon_valid = (epsilon > 0) & (epsilon < jnp.sqrt(jnp.finfo(y.dtype).max))
        epsilon = jnp.where(epsilon_valid, epsilon, 1)
    sites = lax.stop_gradient(Sites(y, b / jnp.sum(b), cost, epsilon))
    key_unit, key_steps, key_tests = jr.split(key, 3)
    unit = _mean_cost(sites, sampler(key_unit))
    g, history = _ascend(sites, sampler, key_steps, unit, ascent)
    value, value_error, masses, error = _test(sites, sampler, key_tests, g, ascent.num_tests)
    known = jnp.isfinite(value) & jnp.isfinite(error)
    result = RESULTS.where(error <= tolerance, RESULTS.successful, RESULTS.max_steps_reached)
    result = RESULTS.where(epsilon_valid, result, RESULTS.invalid_epsilon)
    result = RESULTS.where(b_valid, result, RESULTS.invalid_mass)
    result = RESULTS.where(known & finite, result, RESULTS.nonfinite_input)
    number = lambda value: jnp.where(known, value, 0)
    return SemidiscreteSolution(
        number(g), number(value), number(value_error), number(masses), number(error),
        jnp.nan_to_num(history), result, sites,
    )  # fmt: skip


def _mean_cost(sites: Sites, x: Float[Array, "k d"]) -> Float[Array, ""]:
    """The unit of the potential: what a sample pays to a site on average, above the least."""
    few = x[: min(len(x), 64)]
    costs = jax.vmap(lambda x: jax.vmap(lambda y: sites.cost(x, y))(sites.y))(few)
    spread = jnp.mean(jnp.sum(costs * sites.b[None, :], axis=1)) - jnp.min(costs)
    return jnp.where(spread > 0, spread, 1)


def _ascend(
    sites: Sites,
    sampler: Callable[[PRNGKeyArray], Array],
    key: PRNGKeyArray,
    unit: Float[Array, ""],
    ascent: StochasticAscent,
) -> tuple[Float[Array, " m"], Float[Array, " steps"]]:
    """The average of the last half of the iterates, and the objective on the way."""
    optimiser = ascent.optimiser
    if optimiser is None:
        optimiser = optax.adam(optax.cosine_decay_schedule(0.1, ascent.max_steps))
    begun = ascent.max_steps // 2
    masses = jnp.where(sites.b > 0, sites.b, 1)

    def step(carry, step_number: Int[Array, ""]):
        u, state, average = carry
        f, shares = sites.look(sampler(jr.fold_in(key, step_number)), unit * u)
        # What a site has too much of, relative to its mass: the direction of descent.
        excess = jnp.where(sites.b > 0, (shares - sites.b) / masses, 0)
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            updates, state = optimiser.update(excess, state, u)
        objective = jnp.mean(f) + unit * jnp.sum(sites.b * u)
        u = u + updates.astype(u.dtype)
        # A constant is open.
        u = u - jnp.sum(sites.b * u)
        share = 1 / jnp.maximum(step_number - begun + 1, 1).astype(u.dtype)
        average = average + share * (u - average)
        return (u, state, average), objective

    u = jnp.zeros_like(sites.b)
    steps = jnp.arange(ascent.max_steps, dtype=jnp.int32)
    (_, _, average), history = scan(step, (u, optimiser.init(u), u), steps)
    return unit * average, history


def _test(
    sites: Sites,
    sampler: Callable[[PRNGKeyArray], Array],
    key: PRNGKeyArray,
    g: Float[Array, " m"],
    num_tests: int,
) -> tuple[Array, Array, Array, Array]:
    """Value with its standard error, masses, and the error of these, on new samples."""

    def test(carry, number: Int[Array, ""]):
        total, squares = carry
        f, shares = sites.look(sampler(jr.fold_in(key, number)), g)
        lack = jnp.where(sites.b > 0, (shares - sites.b) / jnp.sqrt(masses), 0)
        return (total + lack, squares + jnp.sum(jnp.square(lack))), (jnp.mean(f), shares)

    masses = jnp.where(sites.b > 0, sites.b, 1)
    zeros = jnp.zeros_like(sites.b), jnp.zeros((), sites.b.dtype)
    numbers = jnp.arange(num_tests, dtype=jnp.int32)
    (total, squares), (means, shares) = scan(test, zeros, numbers)
    # Products of different batches alone: their noise is independent, and has a mean of zero.
    chi_squared = (jnp.sum(jnp.square(total)) - squares) / (num_tests * (num_tests - 1))
    value = jnp.mean(means) + jnp.sum(sites.b * g)
    value_error = jnp.std(means, ddof=1) / jnp.sqrt(jnp.asarray(num_tests, means.dtype))
    error = jnp.sqrt(jnp.maximum(chi_squared, 0))
    # A comparison with NaN is false, and would hide it.
    error = jnp.where(jnp.isfinite(chi_squared), error, jnp.nan)
    return value, value_error, jnp.mean(shares, axis=0), error
