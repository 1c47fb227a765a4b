"""Coarse to fine: a solve of few cells gives all points where to start."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Int

from .._arrays import constant
from .._geometry import AbstractSpatialGeometry, Coarse
from .._problem import EntropicProblem, PreparedProblem
from ._base import AbstractSolver, Outcome, Potentials
from ._default import default_solver


class CoarseToFine(AbstractSolver):
    """Solves for cells of points first, and from there for all points, by any solver.

    Cells stand at the mean of their points and have the sum of their masses: pieces of a Morton
    curve up to three dimensions, clusters beyond, neighbours on a grid. Their potentials are
    extended to the points by the soft c-transform (Gerber and Maggioni 2017, arXiv:1708.00956;
    Schmitzer 2019, arXiv:1610.06519). Nothing is left out of the solve that follows: its steps and
    its error are those of the solution. It pays for many points, above all at small epsilon.
    """

    solver: AbstractSolver | None
    cells: int = eqx.field(static=True)

    def __init__(self, solver: AbstractSolver | None = None, *, cells: int = 4096):
        """**Arguments:**

        - `solver`: what solves both problems; `None` is `Sinkhorn()` in float32 and `Adaptive()` in
            float64.
        - `cells`: the number of cells on each side, at most.

        **Raises:** `ValueError` for another kind of solver, or unless `cells` is at least 2.
        """
        if solver is not None and not isinstance(solver, AbstractSolver):
            raise ValueError(f"`solver` must be a solver such as `Sinkhorn()`, got {solver!r}.")
        if isinstance(cells, bool) or not isinstance(cells, int) or cells < 2:
            raise ValueError(f"`cells` must be a number of cells, at least 2, got {cells!r}.")
        self.solver = solver
        self.cells = cells

    def run(
        self,
        problem: PreparedProblem,
        init: Potentials | None,
        max_steps: Int[Array, ""] | None,
    ) -> Outcome:
        """A warm start is as good as what cells would give, and takes its place."""
        geometry = problem.geometry
        if not isinstance(geometry, AbstractSpatialGeometry):
            raise ValueError(
                "`CoarseToFine` must know which points are near each other: solve with a "
                f"`PointCloud` or a `Grid`, not a `{type(geometry).__name__}`."
            )
        solver = default_solver(None, geometry.dtype) if self.solver is None else self.solver
        if init is None and max(geometry.shape) > self.cells:
            coarse = constant(geometry.coarsened(problem.a, problem.b, self.cells))
            init = _from_cells(problem, coarse, solver, max_steps)
        return solver.run(problem, init, max_steps)


def _from_cells(
    problem: PreparedProblem,
    coarse: Coarse,
    solver: AbstractSolver,
    max_steps: Int[Array, ""] | None,
) -> Potentials:
    """Potentials at all points, by the soft c-transform of those of the cells."""
    epsilon, (side_a, side_b) = problem.epsilon, problem.marginals
    cells, _ = EntropicProblem(
        coarse.geometry, coarse.a, coarse.b, epsilon=epsilon, marginals=problem.marginals
    ).prepare()
    outcome = solver.run(cells, None, max_steps)
    f, g = cells.unit * outcome.f, cells.unit * outcome.g

    from_rows = coarse.from_rows.prepare(problem.a, coarse.b)
    from_columns = coarse.from_columns.prepare(coarse.a, problem.b)
    # The costs of cells are means of costs that are in range, in the unit that these are in.
    f_all = from_rows.geometry.softmin(g + epsilon * jnp.log(coarse.b), epsilon)
    g_all = from_columns.geometry.T.softmin(f + epsilon * jnp.log(coarse.a), epsilon)
    potentials = side_a.damping(epsilon) * f_all, side_b.damping(epsilon) * g_all
    safe = lambda potential: jnp.where(jnp.isfinite(potential), potential, 0.5 * problem.mean)
    return safe(potentials[0]), safe(potentials[1])
