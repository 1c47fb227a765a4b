r"""Barycentres of point clouds, whose own points move (Cuturi and Doucet 2014, arXiv:1310.4375).

For the squared distance a step to $\sum_k w_k T_k(y)$, the weighted mean of the points that a point
is coupled with, lowers $\sum_k w_k \mathrm{OT}_\epsilon(x_k, y)$; that of the Sinkhorn divergence
is $y + \sum_k w_k T_k(y) - T_{yy}(y)$.
"""

import equinox as eqx
import jax
import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from .._arrays import constant
from .._geometry import PointCloud
from .._problem import EntropicProblem
from .._solution import Solution
from .._solve import solve
from .._solver import AbstractSolver, Sinkhorn, SymmetricSinkhorn
from ._accelerated import fixed_point, FixedPoint, Step
from ._minres import minimal_residuals


class Clouds(eqx.Module):
    """Valid numbers: clouds with masses of total 1, weights of sum 1, the masses of the points that
    move."""

    points: Float[Array, "k n d"]
    a: Float[Array, "k n"]
    weights: Float[Array, " k"]
    b: Float[Array, " m"]
    epsilon: Float[Array, ""]
    debiased: bool = eqx.field(static=True)


def solutions(
    problem: Clouds, y: Float[Array, "m d"], warm: PyTree, tolerance: Float[Array, ""]
) -> tuple[Solution, Solution | None]:
    """Those from each cloud to the points `y`, as a batch, and of these with themselves."""

    def of_cloud(x: Float[Array, "n d"], a: Float[Array, " n"], init: PyTree) -> Solution:
        across = EntropicProblem(PointCloud(x, y), a, problem.b, epsilon=problem.epsilon)
        return _solved(across, Sinkhorn(tolerance=tolerance), init)

    cross_init, own_init = (None, None) if warm is None else warm
    cross = eqx.filter_vmap(of_cloud)(problem.points, problem.a, cross_init)
    if not problem.debiased:
        return cross, None
    itself = EntropicProblem(PointCloud(y, y), problem.b, problem.b, epsilon=problem.epsilon)
    return cross, _solved(itself, SymmetricSinkhorn(tolerance=tolerance), own_init)


def _solved(problem: EntropicProblem, solver: AbstractSolver, init: PyTree) -> Solution:
    return solve(problem, solver, init=init, throw=False)


def _partners(solution: Solution, x: Float[Array, "n d"]) -> Float[Array, "m d"]:
    """For each point of the second side the mean of those that it is coupled with."""
    density, a = solution.plan.density, solution.prepared.a[:, None]
    weighted = density.T.mv(jnp.concatenate([a, a * x], axis=1))
    return weighted[:, 1:] / weighted[:, :1]


def moved(
    problem: Clouds, y: Float[Array, "m d"], found: tuple[Solution, Solution | None]
) -> Float[Array, "m d"]:
    """Where a step takes the points."""
    cross, own = found
    images = eqx.filter_vmap(_partners)(cross, problem.points)
    image = jnp.tensordot(problem.weights, images, axes=1, precision=lax.Precision.HIGHEST)
    return image if own is None else y + image - _partners(own, y)


def potentials(found: tuple[Solution, Solution | None]) -> PyTree:
    """What the next solves may start from."""
    cross, own = found
    return constant((cross.potentials, None if own is None else own.potentials))


def search(
    problem: Clouds,
    y: Float[Array, "m d"],
    tolerance: Float[Array, ""],
    max_steps: Int[Array, ""],
) -> FixedPoint:
    """The points of the barycentre, and how the search for them went."""
    inner = 0.1 * tolerance
    centred = problem.points - jnp.mean(problem.points, axis=(0, 1), keepdims=True)
    size = jnp.sum(problem.weights[:, None, None] * problem.a[:, :, None] * jnp.square(centred))
    size = jnp.where(size > 0, jnp.sqrt(size), 1)

    def step(point: Float[Array, " size"], warm: PyTree, epsilon: Float[Array, ""]) -> Step:
        del epsilon
        y_now = point.reshape(y.shape)
        found = solutions(problem, y_now, warm, inner)
        image = moved(problem, y_now, found)
        change = jnp.sum(problem.b[:, None] * jnp.square(image - y_now))
        weights = jnp.broadcast_to(problem.b[:, None], y.shape).reshape(-1)
        return Step(image.reshape(-1), potentials(found), jnp.sqrt(change) / size, weights)

    return fixed_point(
        step,
        y.reshape(-1),
        potentials(solutions(problem, y, None, inner)),
        first_epsilon=problem.epsilon,
        epsilon=problem.epsilon,
        tolerance=tolerance,
        max_steps=max_steps,
    )


@eqx.filter_custom_jvp
def attach(problem, y, warm):
    """The points `y`, which carry no derivative, as functions of the problem."""
    del problem, warm
    return y


@attach.def_jvp
def _attach_jvp(primals, tangents):
    problem, y, warm = primals
    # Through the rule itself, so that second derivatives move y as well.
    y = attach(problem, y, warm)
    tight = jnp.asarray(1e-5 if y.dtype == jnp.float32 else 1e-12, y.dtype)

    # Half the gradient of the objective, whose derivative is symmetric.
    def slope(problem, y):
        image = moved(problem, y, solutions(problem, y, warm, tight))
        return problem.b[:, None] * (y - image)

    _, push = eqx.filter_jvp(lambda p: slope(p, y), (problem,), (tangents[0],))
    if push is None:
        return y, jnp.zeros_like(y)
    _, curvature = jax.linearize(lambda y: slope(problem, y), y)
    masses = jnp.broadcast_to(lax.stop_gradient(problem.b)[:, None], y.shape)
    preconditioner = jnp.where(masses > 0, 1 / jnp.where(masses > 0, masses, 1), 0)

    def solve_system(mv, rhs):
        tolerance = 1e-5 if rhs.dtype == jnp.float32 else 1e-11
        return minimal_residuals(mv, rhs, preconditioner, tolerance=tolerance, max_steps=500)

    return y, lax.custom_linear_solve(curvature, -push, solve_system, symmetric=True)
