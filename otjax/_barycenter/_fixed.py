r"""Barycentres of histograms, on a support that is given.

Seen from the side of the barycentre's support, where no measure is known, a plan is
$P_k = a_k \exp((f_k + g_k - C) / \epsilon)$, whose rows $f_k = \mathrm{softmin}(g_k)$ makes exact.
At the solution all column sums $c_k$ are one measure $b$, and $\sum_k w_k g_k = H$, with $H = 0$
for the entropic cost; for the divergence $b = e^{H / \epsilon} K e^{H / \epsilon}$ with
$K = e^{-C / \epsilon}$ (Janati, Cuturi and Gramfort 2020, arXiv:2006.02575, algorithm 1, where
$d = e^{H / \epsilon}$).
"""

import equinox as eqx
import jax
import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from .._arrays import inner
from .._geometry import AbstractGeometry, AbstractPlan
from ._accelerated import fixed_point, FixedPoint, Step
from ._minres import minimal_residuals


_START = 0.05  # the first epsilon, as a fraction of the mean cost above the least
# Steps without progress, while pixels without mass may be on their way back.
_PATIENCE = 1000


class Histograms(eqx.Module):
    """Valid numbers: the geometry from the measures' support to the barycentre's, measures of total
    1, weights of sum 1."""

    geometry: AbstractGeometry
    a: Float[Array, "k n"]
    weights: Float[Array, " k"]
    epsilon: Float[Array, ""]
    debiased: bool = eqx.field(static=True)


def search(
    problem: Histograms,
    spread: Float[Array, ""],
    tolerance: Float[Array, ""],
    max_steps: Int[Array, ""],
) -> tuple[Float[Array, "k m"], FixedPoint]:
    """The potentials $g_k$ of the barycentre, and how the search went."""
    k, m = problem.a.shape[0], problem.geometry.shape[1]

    def step(point: Float[Array, " size"], warm: PyTree, epsilon: Float[Array, ""]) -> Step:
        g, h = point[: k * m].reshape(k, m), point[k * m :]
        image, h_image, error, b = _scale(problem, g, h, epsilon)
        weights = (problem.weights[:, None] * b[None, :]).reshape(-1)
        return Step(
            jnp.concatenate([image.reshape(-1), h_image]),
            warm,
            error,
            jnp.concatenate([weights, b])[: point.shape[0]],
        )

    found = fixed_point(
        step,
        jnp.zeros((k * m + (m if problem.debiased else 0),), problem.a.dtype),
        None,
        # Pixels that a larger epsilon empties would have to come back.
        first_epsilon=problem.epsilon if problem.debiased else _START * spread,
        epsilon=problem.epsilon,
        tolerance=tolerance,
        max_steps=max_steps,
        patience=_PATIENCE if problem.debiased else 100,
    )
    g = found.point[: k * m].reshape(k, m)
    h = found.point[k * m :] if problem.debiased else jnp.zeros_like(g[0])
    # As an extrapolation leaves it, up to rounding.
    return g + (h - _mean(problem.weights, g))[None, :], found


def _scale(
    problem: Histograms,
    g: Float[Array, "k m"],
    h: Float[Array, " size"],
    epsilon: Float[Array, ""],
) -> tuple[Array, Array, Array, Array]:
    """One step of iterative Bregman projections, in the log domain: new potentials, the error of
    the old ones, and the barycentre so far."""
    geometry, weights = problem.geometry, problem.weights
    log_a = jnp.log(problem.a)
    f = jax.vmap(lambda g: geometry.softmin(g, epsilon))(g)
    softmin = jax.vmap(lambda h: geometry.T.softmin(h, epsilon))(f + epsilon * log_a)
    log_b = -_mean(weights, softmin) / epsilon
    if problem.debiased:
        log_b += h / epsilon
        # No change at the solution, and far from it the only sense of an error.
        log_b -= jax.nn.logsumexp(log_b)
        # A pixel that was emptied comes back from what rounding does not see; from a mass that
        # underflows it would take for ever.
        log_b = jnp.maximum(log_b, jnp.log(jnp.finfo(log_b.dtype).eps / log_b.shape[0]))
    b = jnp.exp(log_b)
    column = jnp.exp((g - softmin) / epsilon)
    error = jnp.sum(weights[:, None] * jnp.abs(column - b[None, :]))
    image = epsilon * log_b[None, :] + softmin
    # The constant of each is open, and would drift off; their mean is not.
    constants = jnp.matmul(image, b, precision=lax.Precision.HIGHEST) / jnp.sum(b)
    image += (jnp.sum(weights * constants) - constants)[:, None]
    if not problem.debiased:
        return image, h, error, b
    own = geometry.softmin(h, epsilon)
    error += jnp.sum(jnp.abs(jnp.exp((h - own) / epsilon) - b))
    # Marginals do not see pixels that have no mass and should have some. The objective is convex;
    # what it could still fall by is at most this (Frank and Wolfe).
    gradient = _mean(weights, softmin) - own
    error += (inner(b, gradient) / jnp.sum(b) - jnp.min(gradient)) / epsilon
    return image, 0.5 * (h + epsilon * log_b + own), error, b


def _mean(weights: Float[Array, " k"], g: Float[Array, "k m"]) -> Float[Array, " m"]:
    return jnp.matmul(weights, g, precision=lax.Precision.HIGHEST)


def _columns(
    problem: Histograms, f: Float[Array, "k n"], g: Float[Array, "k m"]
) -> tuple[AbstractPlan, Float[Array, "k m"]]:
    """The densities of plans whose rows are right, as $f$ is that of $g$, and the sums of their
    columns."""
    make = lambda f, g: problem.geometry.plan(f, g, problem.epsilon)
    density = eqx.filter_vmap(make)(f, g)
    row = _each(density, jnp.ones_like(g))
    return density, _each(_transposed(density), problem.a / row)


def _each(density: AbstractPlan, vectors: Float[Array, "k m"]) -> Float[Array, "k n"]:
    return eqx.filter_vmap(lambda plan, vector: plan.mv(vector))(density, vectors)


def _transposed(density: AbstractPlan) -> AbstractPlan:
    return eqx.filter_vmap(lambda plan: plan.T)(density)


def _mismatch(
    problem: Histograms, f: Float[Array, "k n"], g: Float[Array, "k m"]
) -> Float[Array, "k m"]:
    """What is zero at the solution: $w_k (c_k - b)$, with $b$ from the mean of the potentials, or,
    where that is fixed, from the other columns."""
    _, columns = _columns(problem, f, g)
    if problem.debiased:
        h = _mean(problem.weights, g)
        b = problem.geometry.plan(h, h, problem.epsilon).mv(jnp.ones_like(h))
    else:
        b = _mean(problem.weights, columns)
    return problem.weights[:, None] * (columns - b[None, :])


def masses_of(
    problem: Histograms, g: Float[Array, "k m"]
) -> tuple[Float[Array, "k n"], Float[Array, " m"]]:
    """The other potentials, and the barycentre, as differentiable functions of the problem."""
    f = jax.vmap(lambda g: problem.geometry.softmin(g, problem.epsilon))(g)
    return f, _mean(problem.weights, _columns(problem, f, g)[1])


@eqx.filter_custom_jvp
def attach(problem, g):
    """The potentials `g`, which carry no derivative, as functions of the problem."""
    del problem
    return g


@attach.def_jvp
def _attach_jvp(primals, tangents):
    problem, g = primals
    # Through the rule itself, so that second derivatives move g as well.
    g = attach(problem, g)
    weights, epsilon = problem.weights, problem.epsilon
    f = jax.vmap(lambda g: problem.geometry.softmin(g, epsilon))(g)
    _, moved = eqx.filter_jvp(lambda p: _mismatch(p, f, g), (problem,), (tangents[0],))
    if moved is None:
        return g, jnp.zeros_like(g)
    density, columns = _columns(problem, f, g)
    across = _transposed(density)
    # Onto the potentials whose mean is fixed; the transpose is of the same form.
    project = lambda u: u if problem.debiased else u - _mean(weights, u)[None, :]
    project_transpose = lambda u: (
        u if problem.debiased else u - weights[:, None] * jnp.sum(u, axis=0)[None, :]
    )
    if problem.debiased:
        h = _mean(weights, g)
        own = problem.geometry.plan(h, h, epsilon)
        diagonal = own.mv(jnp.ones_like(h))

    # The derivative of the mismatch by g, times epsilon; f follows g.
    def mv(u: Float[Array, "k m"]) -> Float[Array, "k m"]:
        u = project(u)
        product = columns * u - _each(across, problem.a * _each(density, u))
        if problem.debiased:
            mean = _mean(weights, u)
            product -= (diagonal * mean + own.mv(mean))[None, :]
        return project_transpose(weights[:, None] * product)

    # A mean that changes with the weights moves all potentials alike.
    shift = jnp.zeros_like(g[0])
    t_weights = getattr(tangents[0], "weights", None)
    if not problem.debiased and t_weights is not None:
        shift = -_mean(t_weights, g)
    ones = jnp.ones_like(weights)[:, None]
    pushed = weights[:, None] * (
        columns * shift[None, :] - _each(across, problem.a * _each(density, ones * shift[None, :]))
    )
    rhs = -project_transpose(epsilon * moved + pushed)
    scale = lax.stop_gradient(weights[:, None] * columns)
    preconditioner = jnp.where(scale > 0, 1 / jnp.where(scale > 0, scale, 1), 0)

    def solve(mv, rhs):
        tolerance = 1e-6 if rhs.dtype == jnp.float32 else 1e-13
        return minimal_residuals(mv, rhs, preconditioner, tolerance=tolerance, max_steps=2000)

    u = lax.custom_linear_solve(mv, rhs, solve, symmetric=True)
    return g, project(u) + shift[None, :]
