"""Which sample of the start goes to which sample of the end."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, ArrayLike, Float

from .._arrays import constant, positive_number
from .._geometry import CostMatrix, PointCloud
from .._ground_cost import GroundCost, SqEuclidean
from .._problem import EntropicProblem, Relative
from .._reduction import Pairs as Costs
from .._results import RESULTS
from .._solution import Solution
from .._solve import solve
from .._solver import AbstractSolver
from ._batches import two_batches, vectors
from ._pairs import AbstractDraw, evaluated, JointLaw, Pairs, relative, Rows


class AbstractCoupling(eqx.Module):
    """A joint law of starts and ends, to draw pairs from."""

    @abc.abstractmethod
    def pairs(
        self, key: Array, x0: ArrayLike, x1: ArrayLike, condition: ArrayLike | None = None
    ) -> Pairs:
        """Draws pairs of two batches. Nothing is differentiated.

        **Arguments:**

        - `key`: a key of `jax.random`.
        - `x0`, `x1`: samples, shapes (n, ...) and (m, ...); masses are uniform.
        - `condition`: what each sample of the end comes with, such as its label, axes (m, ...).

        **Raises:** `ValueError` for batches that do not fit.
        """


def _pairs_without_solve(i: Array, j: Array, entropy: float, relative_cost: Array) -> Pairs:
    zero = jnp.zeros_like(relative_cost)
    return Pairs(i, j, zero, zero + entropy, relative_cost, RESULTS.successful)


class Independent(AbstractCoupling):
    """Pairs at random. Each sample of the start has one; those of the end are used equally often,
    up to one."""

    @eqx.filter_jit
    def pairs(
        self, key: Array, x0: ArrayLike, x1: ArrayLike, condition: ArrayLike | None = None
    ) -> Pairs:
        del condition
        x0, x1 = two_batches(x0, x1, ("x0", "x1"))
        key_order, key_partners = jr.split(key)
        order = jr.permutation(key_order, len(x0)) % len(x1)
        j = jr.permutation(key_partners, len(x1))[order]
        return _pairs_without_solve(jnp.arange(len(x0)), j, 1.0, jnp.ones((), x0.dtype))


class Paired(AbstractCoupling):
    """The pairs are given: sample k of the start goes to sample k of the end, as after `reflow`.

    The relative cost is that of the squared Euclidean distance.
    """

    @eqx.filter_jit
    def pairs(
        self, key: Array, x0: ArrayLike, x1: ArrayLike, condition: ArrayLike | None = None
    ) -> Pairs:
        del key, condition
        x0, x1 = constant(two_batches(x0, x1, ("x0", "x1")))
        if len(x0) != len(x1):
            raise ValueError(
                f"`x1` must hold as many samples as `x0` for `Paired()`, {len(x0)}, got {len(x1)}."
            )
        i = jnp.arange(len(x0))
        x0, x1 = vectors(x0), vectors(x1)
        cost = jnp.mean(jnp.sum(jnp.square(x0 - x1), axis=1))
        return _pairs_without_solve(i, i, 0.0, relative(cost, _mean_squared_distance(x0, x1)))


class Minibatch(AbstractCoupling):
    """Pairs from the entropic plan between the two batches (Tong et al. 2023, arXiv:2302.00482;
    Pooladian et al. 2023, arXiv:2304.14772).

    Paths of near pairs cross less, so that a velocity field is straighter and its regression less
    noisy. The plan of a batch is blurred against that of the laws: the larger the batch, the less.
    """

    epsilon: Float[Array, ""]
    cost: GroundCost
    solver: AbstractSolver | None
    draw: AbstractDraw
    num_pairs: int | None = eqx.field(static=True)

    def __init__(
        self,
        solver: AbstractSolver | None = None,
        *,
        epsilon: ArrayLike = 0.01,
        cost: GroundCost = SqEuclidean(),
        draw: AbstractDraw = Rows(),
        num_pairs: int | None = None,
    ):
        """**Arguments:**

        - `solver`: as for `otjax.solve`.
        - `epsilon`: the regularisation as a fraction of the mean cost above the least, as in
            `Relative`, positive. For `SqEuclidean` that is the mean cost of batches that are moved
            onto one mean, which changes no plan.
        - `cost`: a ground cost; it sees samples as vectors.
        - `draw`: `Rows()` draws from the plan; `Assignment()` makes it one-to-one.
        - `num_pairs`: how many pairs to draw, at most n; `None` is all n. So a plan of a large
            batch can serve a small batch of the regression.

        **Raises:** `ValueError` for arguments of the wrong kind.
        """
        if solver is not None and not isinstance(solver, AbstractSolver):
            raise ValueError(f"`solver` must be a solver such as `Sinkhorn()`, got {solver!r}.")
        if not isinstance(draw, AbstractDraw):
            raise ValueError(f"`draw` must be `Rows()` or `Assignment()`, got {draw!r}.")
        if num_pairs is not None and (not isinstance(num_pairs, int) or num_pairs < 1):
            raise ValueError(f"`num_pairs` must be a whole number, at least 1, got {num_pairs!r}.")
        self.solver, self.cost, self.draw, self.num_pairs = solver, cost, draw, num_pairs
        self.epsilon = positive_number(epsilon, "epsilon")

    @eqx.filter_jit
    def pairs(
        self, key: Array, x0: ArrayLike, x1: ArrayLike, condition: ArrayLike | None = None
    ) -> Pairs:
        del condition
        costs, shift = self._costs(x0, x1)
        geometry = PointCloud(costs.x, costs.y, cost=self.cost)
        problem = EntropicProblem(geometry, epsilon=Relative(self.epsilon))
        solution = self._solved(problem)
        mean = solution.prepared.mean * solution.prepared.unit
        return self._drawn(key, solution, costs, mean, shift)

    def _costs(self, x0: ArrayLike, x1: ArrayLike) -> tuple[Costs, Float[Array, ""]]:
        """The costs, and a constant that was left out of them."""
        x0, x1 = constant(tuple(map(vectors, two_batches(x0, x1, ("x0", "x1")))))
        shift = jnp.zeros((), x0.dtype)
        if isinstance(self.cost, SqEuclidean):
            means = tuple(jnp.mean(x, axis=0, keepdims=True) for x in (x0, x1))
            x0, x1 = x0 - means[0], x1 - means[1]
            shift = jnp.sum(jnp.square(means[0] - means[1]))
        return Costs(x0, x1, self.cost), shift

    def _solved(self, problem: EntropicProblem) -> Solution:
        return constant(solve(problem, self.solver, throw=False))

    def _drawn(
        self,
        key: Array,
        solution: Solution,
        costs: Costs,
        mean: Float[Array, ""],
        shift: Float[Array, ""],
    ) -> Pairs:
        """Pairs from a plan, evaluated by costs of the given mean."""
        n, m = costs.shape
        num_pairs = n if self.num_pairs is None else self.num_pairs
        if num_pairs > n:
            raise ValueError(
                f"`num_pairs` must be at most the number of samples `x0`, {n}, got {num_pairs}."
            )
        potentials = _with_exact_rows(solution)
        drawn = self.draw(key, JointLaw(solution.prepared, potentials, costs), num_pairs)
        drawn = drawn._replace(cost=drawn.cost + shift)
        return evaluated(drawn, 1 / m, mean + shift, solution.result)


def _with_exact_rows(solution: Solution) -> tuple[Float[Array, " n"], Float[Array, " m"]]:
    """The potentials after one more half-step, whose plan gives each row its mass."""
    problem, (_, g) = solution.prepared, solution.inner
    h = g + problem.epsilon * jnp.log(problem.b)
    return problem.geometry.softmin(h, problem.epsilon), g


class Conditional(AbstractCoupling):
    r"""A minibatch coupling that keeps the conditions apart: the cost of a pair has
    `weight` times the squared distance of conditions added to it (Cheng and Schwing 2025,
    arXiv:2503.10636).

    Sample k of the start is given the condition of sample k of the end, then partners are found. A
    coupling that ignores conditions skews the starts that each condition sees in training, and
    then meets others when sampling.
    """

    weight: Float[Array, ""]
    minibatch: Minibatch

    def __init__(self, weight: ArrayLike = jnp.inf, *, minibatch: Minibatch | None = None):
        """**Arguments:**

        - `weight`: positive, in the unit of the cost over that of squared conditions; the distance
            of whole numbers, which are labels, is 0 or 1. `inf` forbids pairs of different
            conditions.
        - `minibatch`: how the plan is made, and pairs are drawn from it; `None` is `Minibatch()`.
        """
        self.weight = positive_number(weight, "weight")
        minibatch = Minibatch() if minibatch is None else minibatch
        if not isinstance(minibatch, Minibatch):
            raise ValueError(f"`minibatch` must be `Minibatch(...)`, got {minibatch!r}.")
        self.minibatch = minibatch

    @eqx.filter_jit
    def pairs(
        self, key: Array, x0: ArrayLike, x1: ArrayLike, condition: ArrayLike | None = None
    ) -> Pairs:
        costs, shift = self.minibatch._costs(x0, x1)
        n, m = costs.shape
        if n != m:
            raise ValueError(
                f"`x1` must hold as many samples as `x0` for `Conditional(...)`, {n}, got {m}: "
                "sample k of the start has the condition of sample k of the end."
            )
        if condition is None:
            raise ValueError("`condition` must be given for `Conditional(...)`, axes (n, ...).")
        matrix = costs.matrix()
        distance = _condition_distance(constant(jnp.asarray(condition)), m, matrix.dtype)
        # Times, not at distance 0, where the weight may be infinite.
        penalty = jnp.where(distance > 0, self.weight.astype(matrix.dtype) * distance, 0)
        mean = jnp.mean(matrix)
        # A fraction of the costs themselves, whatever is added to them.
        epsilon = Relative(self.minibatch.epsilon).times(mean - jnp.min(matrix))
        problem = EntropicProblem(CostMatrix(matrix + penalty), epsilon=epsilon)
        solution = self.minibatch._solved(problem)
        return self.minibatch._drawn(key, solution, costs, mean, shift)


def check_condition(condition: Array, num: int) -> None:
    """**Raises:** `ValueError` unless there is one condition for each sample of the end."""
    if condition.ndim == 0 or condition.shape[0] != num:
        raise ValueError(
            f"`condition` must have one entry for each sample `x1`, axes ({num}, ...), got shape "
            f"{condition.shape}."
        )


def _condition_distance(condition: Array, num: int, dtype: jnp.dtype) -> Float[Array, "n n"]:
    check_condition(condition, num)
    rows = condition.reshape(num, -1)
    if jnp.issubdtype(condition.dtype, jnp.floating):
        rows = rows.astype(dtype)
        return SqEuclidean().pairwise(rows, rows)
    different = jax.vmap(lambda one: jnp.any(rows != one[None, :], axis=1))(rows)
    return different.astype(dtype)


def _mean_squared_distance(x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Float[Array, ""]:
    """The mean over all pairs, without a matrix of them."""
    variances = jnp.sum(jnp.var(x, axis=0)) + jnp.sum(jnp.var(y, axis=0))
    return variances + jnp.sum(jnp.square(jnp.mean(x, axis=0) - jnp.mean(y, axis=0)))
