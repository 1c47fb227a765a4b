"""Which solver is used, by what a user says and by the problem."""

from jaxtyping import ArrayLike

from .._geometry import CURVED_DIMENSIONS, Grid, PointCloud
from .._ground_cost import degree
from .._problem import EntropicProblem
from .._slack import has_slack
from ._base import AbstractSolver
from ._coarse_to_fine import CoarseToFine
from ._default import default_solver


# With more pairs than these a step on all points is so much longer than one on cells that their
# solve, and its compilation, pay.
_MANY_PAIRS = 2**28


def chosen_solver(
    solver: AbstractSolver | None, tolerance: ArrayLike | None, problem: EntropicProblem
) -> AbstractSolver:
    """The solver that was asked for, by itself or by a tolerance; the default one begins with
    cells of points where that pays.

    **Raises:** `ValueError` if it is none, and if both are given.
    """
    if solver is None:
        default = default_solver(tolerance, problem.geometry.dtype)
        return CoarseToFine(default) if _cells_pay(problem) else default
    if not isinstance(solver, AbstractSolver):
        raise ValueError(f"`solver` must be a solver such as `Sinkhorn()`, got {solver!r}.")
    if tolerance is not None:
        raise ValueError(
            "`tolerance` is that of the default solver; with a `solver` of your own pass it there, "
            f"`{type(solver).__name__}(tolerance=...)`."
        )
    return solver


def _cells_pay(problem: EntropicProblem) -> bool:
    """Whether a problem has many points that are easily put together, on a grid or in a space of
    few dimensions, and a cost that tells of points what it tells of their cells."""
    geometry = problem.geometry
    n, m = geometry.shape
    # A size that is a symbol, in a program that is exported for any, may be any.
    known = isinstance(n, int) and isinstance(m, int)
    if not known or n * m <= _MANY_PAIRS or has_slack(problem):
        return False
    if isinstance(geometry, PointCloud) and geometry.x.shape[1] > CURVED_DIMENSIONS:
        return False
    return isinstance(geometry, Grid | PointCloud) and degree(geometry.cost) is not None
