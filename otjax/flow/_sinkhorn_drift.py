"""The drift of the Sinkhorn divergence."""

import equinox as eqx
import jax
import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from .._arrays import constant
from .._couplings import projection
from .._geometry import PointCloud
from .._problem import EntropicProblem
from .._results import RESULTS
from .._solution import Solution
from .._solve import solve
from .._solver import AbstractSolver, SymmetricSinkhorn
from ._batches import two_batches, vectors
from ._drift import AbstractDrift, Drift, DriftSolutions, positive_numbers, root_mean_square


class SinkhornDrift(AbstractDrift):
    r"""The steepest descent of the Sinkhorn divergence, in closed form,

    $$V(x_i) = T_{xy}(x_i) - T_{xx}(x_i),$$

    where $T$ is where a plan sends a point on average: between the samples and the data, and of the
    samples with themselves. It is $-\frac n2$ times the gradient of
    `otjax.sinkhorn_divergence(x, y)` for the cost $\|x - y\|^2$ (Feydy et al. 2019,
    arXiv:1810.08278). A step `x + V` goes all the way where `epsilon` is small.

    It differs from a mean shift in its weights: those of a converged plan use all data equally. No
    derivative goes through the solves.
    """

    epsilon: Float[Array, " k"]
    solver: AbstractSolver | None

    def __init__(
        self, epsilon: ArrayLike | tuple[float, ...], *, solver: AbstractSolver | None = None
    ):
        """**Arguments:**

        - `epsilon`: the regularisation, positive, in the squared unit of the samples. Below it the
            drift does not resolve; several, shape (k,), give the mean of their drifts.
        - `solver`: as for `otjax.sinkhorn_divergence`.

        **Raises:** `ValueError` for an epsilon that is not positive, and a solver of another kind.
        """
        if solver is not None and not isinstance(solver, AbstractSolver):
            raise ValueError(f"`solver` must be a solver such as `Sinkhorn()`, got {solver!r}.")
        self.epsilon, self.solver = positive_numbers(epsilon, "epsilon"), solver

    @eqx.filter_jit
    def __call__(self, x: ArrayLike, y: ArrayLike) -> Float[Array, "n ..."]:
        samples, data = constant(two_batches(x, y, ("x", "y")))
        fields, _ = self._fields(vectors(samples), vectors(data), None)
        return jnp.mean(fields, axis=0).reshape(samples.shape)

    @eqx.filter_jit
    def evaluate(self, x: ArrayLike, y: ArrayLike, init: Drift | None = None) -> Drift:
        samples, data = constant(two_batches(x, y, ("x", "y")))
        x, y = vectors(samples), vectors(data)
        fields, solutions = self._fields(x, y, None if init is None else init.solutions)
        field = jnp.mean(fields, axis=0)
        sharpest = jnp.argmin(self.epsilon)
        epsilon = constant(self.epsilon)[sharpest].astype(x.dtype)
        yy = solved_plan(y, y, epsilon, self._self_solver, None)
        xy, xx = (solution.value[sharpest] for solution in solutions)
        return Drift(
            field=field.reshape(samples.shape),
            size=root_mean_square(field),
            w2=jnp.sqrt(jnp.maximum(xy - 0.5 * (xx + yy.value), 0)),
            solutions=solutions,
            result=worst_result(len(fields), solutions.xy.result, solutions.xx.result),
        )

    @property
    def _self_solver(self) -> AbstractSolver:
        return SymmetricSinkhorn() if self.solver is None else self.solver

    def _fields(
        self, x: Float[Array, "n d"], y: Float[Array, "m d"], warm: DriftSolutions | None
    ) -> tuple[Float[Array, "k n d"], DriftSolutions]:
        symmetric = self._self_solver
        # So that differences of maps do not cancel far from the origin.
        centre = jnp.mean(y, axis=0, keepdims=True)

        def at(given: tuple[Float[Array, ""], DriftSolutions | None]):
            epsilon, warm = given
            xy, xx = (None, None) if warm is None else warm
            solutions = DriftSolutions(
                solved_plan(x, y, epsilon, self.solver, xy),
                solved_plan(x, x, epsilon, symmetric, xx),
            )
            to_data = plan_map(solutions.xy, x - centre, y - centre)
            return to_data - plan_map(solutions.xx, x - centre, x - centre), solutions

        # One after the other, so that the matrices of one temperature exist at a time.
        return lax.map(at, (constant(self.epsilon).astype(x.dtype), warm))


def solved_plan(
    x: Float[Array, "n d"],
    y: Float[Array, "m d"],
    epsilon: Float[Array, ""],
    solver: AbstractSolver | None,
    warm: Solution | None,
) -> Solution:
    """A plan, from the potentials of another one where there is one, carried over to the points."""
    problem = EntropicProblem(PointCloud(x, y), epsilon=epsilon)
    init = None if warm is None else (_carried(warm, x), _carried(warm.T, y))
    return constant(solve(problem, solver, init=init, throw=False))


def _carried(warm: Solution, x: Float[Array, "n d"]) -> Float[Array, " n"]:
    """The first potential at other points: to start from, so without the care of
    `Solution.potential` for points far away."""
    problem, (_, g) = warm.prepared, warm.inner
    h = g + problem.epsilon * jnp.log(problem.b)
    return problem.unit * warm.seen_from(x).softmin(h, problem.epsilon)


def plan_map(solution: Solution, x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Array:
    """Where the plan sends each of its own points on average, about any origin."""
    images, masses = projection(solution.plan, y)
    # A row that underflows, in a plan that has not converged, stays where it is.
    return jnp.where((masses > 0)[:, None], images, x)


def worst_result(num: int, *stacked: RESULTS) -> RESULTS:
    """The first of the members, over all temperatures, that is not `successful`."""
    worst = RESULTS.successful
    for results in stacked:
        for k in range(num):
            one = jax.tree.map(lambda leaf, k=k: leaf[k], results)
            worst = RESULTS.where(worst == RESULTS.successful, one, worst)
    return worst
