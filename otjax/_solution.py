"""What a solve returns."""

from typing import cast

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int, PRNGKeyArray

from . import _couplings
from ._arrays import float_array
from ._conditional import conditional
from ._dual import linear_cost, transport_plan
from ._geometry import AbstractCloud, AbstractPointGeometry
from ._ground_cost import GroundCost, SqEuclidean
from ._maps import ConvexMap, nearest
from ._operators import TransportPlan
from ._precision import needs_precision
from ._problem import EntropicProblem, PreparedProblem
from ._results import RESULTS
from ._slack import AbstractSlack
from ._unit import times_unit


class Stats(eqx.Module):
    """What a solve took.

    - `num_steps`: the number of steps of the solver.
    - `marginal_error`: the L1 errors of the two marginals together, relative to the total mass,
      computed afresh from the returned potentials.
    """

    num_steps: Int[Array, ""]
    marginal_error: Float[Array, ""]

    def __getitem__(self, name: str) -> Array:
        """`stats["num_steps"]`, as in lineax."""
        return getattr(self, name)


class Solution(eqx.Module):
    r"""The solution of an entropic problem. Differentiable in everything that defines it.

    - `problem`: the problem that was solved, whose `epsilon` is the number that was used, never
      `Relative`.
    - `prepared`: the same as the solver saw it, in its own unit, with the matrix of costs where one
      is held: plan, marginals and cost are made of it.
    - `inner`: the potentials of `prepared`, in its unit.
    - `constant`: what `prepared` is without: a large number that all costs of a matrix share.
    - `potentials`: $(f, g)$, shapes (n,) and (m,), in the unit of the cost. Balanced problems
      leave a constant open; it is chosen such that both have the same mean under the masses.
    - `value`: the optimum of the regularised objective, through its dual.
    - `result`: a member of `RESULTS`. Numbers are finite whatever it is.
    - `stats`: see `Stats`.
    """

    problem: EntropicProblem
    prepared: PreparedProblem
    inner: tuple[Float[Array, " n"], Float[Array, " m"]]
    constant: Float[Array, ""]
    potentials: tuple[Float[Array, " n"], Float[Array, " m"]]
    value: Float[Array, ""]
    result: RESULTS
    stats: Stats

    @property
    def epsilon(self) -> Float[Array, ""]:
        """The number that was used, that of `problem`."""
        return cast(Array, self.problem.epsilon)

    @property
    @eqx.filter_jit
    def plan(self) -> TransportPlan:
        """The coupling, an n x m lineax operator: `mv(v)`, `.T`, `as_matrix()`."""
        return transport_plan(self.prepared, *self._potentials)

    @property
    @eqx.filter_jit
    def marginals(self) -> tuple[Float[Array, " n"], Float[Array, " m"]]:
        """The plan's marginals, $(P 1, P^T 1)$."""
        plan = self.plan
        return plan.mv(jnp.ones_like(plan.b)), plan.T.mv(jnp.ones_like(plan.a))

    @property
    @eqx.filter_jit
    def value_linear(self) -> Float[Array, ""]:
        r"""The transport cost of the plan, $\langle P, C \rangle$."""
        problem = self.prepared
        level = times_unit(_cost_of_plan, problem.unit, problem, *self._potentials)
        # Where the plan of a solve that failed overflows it is the largest number.
        return jnp.nan_to_num(level + self.constant * jnp.sum(problem.a))

    @property
    def _potentials(self) -> tuple[Float[Array, " n"], Float[Array, " m"]]:
        needs_precision(self.value.dtype, "This solution")
        return self.inner

    @property
    def T(self) -> "Solution":
        """The same solution with the two measures exchanged: `T.transport` is the inverse map."""
        (inner_f, inner_g), (f, g) = self.inner, self.potentials
        return Solution(
            self.problem.T,
            self.prepared.T,
            (inner_g, inner_f),
            self.constant,
            (g, f),
            self.value,
            self.result,
            self.stats,
        )

    @eqx.filter_jit
    def potential(self, x: ArrayLike) -> Float[Array, " k"]:
        """The first potential at any points, by the soft c-transform of the second.

        **Arguments:**

        - `x`: points of the first space, shape (k, d).

        **Returns:** the potential, shape (k,); at the problem's own points it is `potentials[0]`.

        **Raises:** `ValueError` unless the geometry is one of points, such as `PointCloud`.
        """
        if any(isinstance(side, AbstractSlack) for side in self.problem.marginals):
            raise ValueError(
                "The potential of a problem that leaves mass does not extend to other points; use "
                "`solution.potentials`."
            )
        new, problem = self.seen_from(x), self.prepared
        return times_unit(_half_step, problem.unit, problem, new, self._potentials[1])

    @eqx.filter_jit
    def transport(self, x: ArrayLike) -> Float[Array, "k d"]:
        r"""The entropic map: where the plan sends a point on average, at any points
        (Pooladian and Niles-Weed 2021, arXiv:2109.12004).

        **Arguments:**

        - `x`: points of the first space, shape (k, d).

        **Returns:** $\sum_j P(y_j | x) y_j$, shape (k, d). The inverse is `solution.T.transport`.

        **Raises:** `ValueError` unless the geometry is one of points, such as `PointCloud`.
        """
        new, problem = self.seen_from(x), self.prepared
        y = cast(AbstractPointGeometry, self.problem.geometry).y
        y = jnp.where((problem.b > 0)[:, None] & jnp.isfinite(y), y, 0)
        return conditional(new, self._potentials[1], problem.b, problem.epsilon, y)[1]

    @property
    def entropy(self) -> Float[Array, ""]:
        r"""The entropy of the plan, $-\sum_{ij} P_{ij} \log P_{ij}$, in nats: of plans between n
        points of mass 1/n, $\log n$ for a permutation and $2 \log n$ for independence."""
        return _couplings.entropy(self.plan)

    def sample(self, key: PRNGKeyArray, k: int) -> tuple[Int[Array, " k"], Int[Array, " k"]]:
        """Pairs of indices drawn from the plan, with replacement.

        **Arguments:**

        - `key`: a key of `jax.random`.
        - `k`: how many pairs.

        **Returns:** `(i, j)`, shapes (k,).

        **Raises:** `ValueError` unless `k` is a positive integer.
        """
        return _couplings.sample_pairs(self.plan, key, k)

    def sample_partners(self, key: PRNGKeyArray) -> Int[Array, " n"]:
        """For each row a column, drawn from the plan given the row."""
        return _couplings.draw_partners(self.plan, key)

    def match(self) -> Int[Array, " n"]:
        """For each row the column that it gives most to; a column may serve several rows."""
        return _couplings.best_partners(self.plan)

    def assign(self) -> Int[Array, " n"]:
        """For each row a column of its own, pairs of the largest density first.

        **Raises:** `ValueError` if there are fewer columns than rows.
        """
        return _couplings.one_to_one(self.prepared, *self._potentials)

    @eqx.filter_jit
    def barycentric(self) -> Float[Array, "n d"]:
        r"""Where each point of the first side goes on average, $\sum_j P_{ij} y_j / (P 1)_i$."""
        return _couplings.projection(self.plan, self._points[1])[0]

    def interpolate(
        self, t: ArrayLike, *, itself: "Solution | None" = None
    ) -> tuple[Float[Array, "n d"], Float[Array, " n"]]:
        r"""The measure at time `t` of the way from the first side (0) to the second (1): each point
        on the line to its barycentric projection (McCann 1997, doi:10.1006/aima.1997.1634).

        The projections of an entropic plan lie closer together than the points of the second side.

        **Arguments:**

        - `t`: the time, a number that may be traced.
        - `itself`: a solution of the first measure with itself, at the same epsilon, as
            `solutions.xx` of a divergence: then its own shrinkage is taken off.

        **Returns:** points and their masses, shapes (n, d) and (n,).

        **Raises:** `ValueError` unless the geometry is one of points.
        """
        x, y = self._points
        bias = None if itself is None else (itself.plan, itself._points[1])
        return _couplings.interpolated(self.plan, x, y, t, bias)

    def nearest(self, x: ArrayLike) -> Int[Array, " k"]:
        """The Laguerre cell of the second side that each point of shape (k, d) is in: a map to
        points, of which the potentials alone are used. See `otjax.nearest`."""
        y, g = self._points[1], self.potentials[1]
        g = jnp.where(self.prepared.b > 0, g, -jnp.inf)
        return nearest(x, y, g, cost=self._cost)[0]

    def convex_map(self) -> ConvexMap:
        """The entropic map as the gradient of a convex function.

        **Raises:** `ValueError` unless the cost is `SqEuclidean()`.
        """
        y = self._points[1]
        if not isinstance(self._cost, SqEuclidean):
            raise ValueError(
                "The map is the gradient of a convex function for the cost `SqEuclidean()` only, "
                f"got {self._cost!r}; use `solution.transport`."
            )
        return ConvexMap(y, self.potentials[1], self.prepared.b, epsilon=self.epsilon)

    @property
    def _points(self) -> tuple[Float[Array, "n d"], Float[Array, "m d"]]:
        """The points of both sides, those of mass zero at the origin."""
        geometry = self.problem.geometry
        if not isinstance(geometry, AbstractPointGeometry):
            raise ValueError(
                "Maps and interpolations need points: solve with a `PointCloud`, not a "
                f"`{type(geometry).__name__}`."
            )
        alive = lambda masses: (masses > 0)[:, None]
        a, b = self.prepared.a, self.prepared.b
        return jnp.where(alive(a), geometry.T.y, 0), jnp.where(alive(b), geometry.y, 0)

    @property
    def _cost(self) -> GroundCost:
        """The cost between any two points."""
        geometry = self.problem.geometry
        if not isinstance(geometry, AbstractCloud):
            raise ValueError(
                "Cells and convex functions need the cost of two points: solve with a "
                f"`PointCloud`, not a `{type(geometry).__name__}`."
            )
        return geometry.cost

    def seen_from(self, x: ArrayLike) -> AbstractPointGeometry:
        """The geometry from new points to the second support."""
        geometry = self.problem.geometry
        needs_precision(geometry.dtype, "This solution")
        if not isinstance(geometry, AbstractPointGeometry):
            raise ValueError(
                "Out-of-sample potentials and maps need points: solve with a `PointCloud`, not a "
                f"`{type(geometry).__name__}`."
            )
        points = float_array(x, "x", "k d").astype(geometry.dtype)
        return geometry.seen_from(points, self.prepared.b, self.prepared.unit)


def _cost_of_plan(
    problem: PreparedProblem, f: Float[Array, " n"], g: Float[Array, " m"]
) -> Float[Array, ""]:
    above = linear_cost(problem, f, g, problem.least)
    # What all pairs cost is paid for the mass that there is, not for that of a plan whose marginals
    # are short of it.
    plan = transport_plan(problem, f, g)
    given = problem.a if problem.has_gauge else plan.mv(jnp.ones_like(g))
    return above + problem.least * jnp.sum(given)


def _half_step(
    problem: PreparedProblem, new: AbstractPointGeometry, g: Float[Array, " m"]
) -> Float[Array, " k"]:
    softmin, _ = conditional(new, g, problem.b, problem.epsilon, new.y)
    return problem.marginals[0].damping(problem.epsilon) * softmin
