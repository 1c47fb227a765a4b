"""What a solve returns."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from ._arrays import constant, float_array, needs_precision
from ._dual import linear_cost, transport_plan
from ._geometry import AbstractPointGeometry
from ._operators import TransportPlan
from ._problem import EntropicProblem, PreparedProblem
from ._results import RESULTS
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

    - `problem`: the problem that was solved, whose `epsilon` is the number that was used.
    - `prepared`: the same as the solver saw it, in its own unit, with the matrix of costs where one
      is held: plan, marginals and cost are made of it.
    - `potentials`: $(f, g)$, shapes (n,) and (m,), in the unit of the cost. Balanced problems
      leave a constant open; it is chosen such that both have the same mean under the masses.
    - `value`: the optimum of the regularised objective, through its dual.
    - `result`: a member of `RESULTS`. Numbers are finite whatever it is.
    - `stats`: see `Stats`.
    """

    problem: EntropicProblem
    prepared: PreparedProblem
    potentials: tuple[Float[Array, " n"], Float[Array, " m"]]
    value: Float[Array, ""]
    result: RESULTS
    stats: Stats

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
        return times_unit(_cost_of_plan, problem.unit, problem, *self._potentials)

    @property
    def _potentials(self) -> tuple[Float[Array, " n"], Float[Array, " m"]]:
        """In the unit of the problem as it was prepared."""
        f, g = self.potentials
        needs_precision(f.dtype, "This solution")
        return f / self.prepared.unit, g / self.prepared.unit

    @property
    def T(self) -> "Solution":
        """The same solution with the two measures exchanged: `T.transport` is the inverse map."""
        f, g = self.potentials
        return Solution(
            self.problem.T, self.prepared.T, (g, f), self.value, self.result, self.stats
        )

    @eqx.filter_jit
    def potential(self, x: ArrayLike) -> Float[Array, " k"]:
        """The first potential at any points, by the soft c-transform of the second.

        **Arguments:**

        - `x`: points of the first space, shape (k, d).

        **Returns:** the potential, shape (k,); at the problem's own points it is `potentials[0]`.

        **Raises:** `ValueError` unless the geometry is one of points, such as `PointCloud`.
        """
        new, f = self._seen_from(x)
        problem = self.prepared
        return times_unit(_half_step, problem.unit, problem, new, f, self._potentials[1])

    @eqx.filter_jit
    def transport(self, x: ArrayLike) -> Float[Array, "k d"]:
        r"""The entropic map: where the plan sends a point on average, at any points
        (Pooladian and Niles-Weed 2021, arXiv:2109.12004).

        **Arguments:**

        - `x`: points of the first space, shape (k, d).

        **Returns:** $\sum_j P(y_j | x) y_j$, shape (k, d). The inverse is `solution.T.transport`.

        **Raises:** `ValueError` unless the geometry is one of points, such as `PointCloud`.
        """
        new, f = self._seen_from(x)
        b = self.prepared.b[:, None]
        y = self.problem.geometry.y
        y = jnp.where((b > 0) & jnp.isfinite(y), y, 0)
        # Mass and mean in one product; normalised, so that the weights sum to one wherever x is.
        density = new.plan(f, self._potentials[1], self.prepared.epsilon)
        weighted = density.mv(jnp.concatenate([b, b * y], axis=1))
        return weighted[:, 1:] / weighted[:, :1]

    def _seen_from(self, x: ArrayLike) -> tuple[AbstractPointGeometry, Float[Array, " k"]]:
        """The geometry from new points to the second support, and a potential at the new points:
        right in value, without derivatives."""
        geometry = self.problem.geometry
        needs_precision(geometry.dtype, "This solution")
        if not isinstance(geometry, AbstractPointGeometry):
            raise ValueError(
                "Out-of-sample potentials and maps need points: solve with a `PointCloud`, not a "
                f"`{type(geometry).__name__}`."
            )
        points = float_array(x, "x", "k d").astype(geometry.dtype)
        problem = self.prepared
        new = geometry.seen_from(points, problem.b, problem.unit)
        fixed, b, g, epsilon = constant((new, problem.b, self._potentials[1], problem.epsilon))
        return new, fixed.softmin(g + epsilon * jnp.log(b), epsilon)


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
    problem: PreparedProblem,
    new: AbstractPointGeometry,
    f: Float[Array, " k"],
    g: Float[Array, " m"],
) -> Float[Array, " k"]:
    density = new.plan(f, g, problem.epsilon)
    softmin = f - problem.epsilon * jnp.log(density.mv(problem.b))
    return problem.marginals[0].damping(problem.epsilon) * softmin
