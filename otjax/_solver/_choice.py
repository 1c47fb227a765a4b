"""Which solver is used where the user names none."""

import jax.numpy as jnp
from jaxtyping import ArrayLike

from ._adaptive import Adaptive
from ._base import AbstractSolver
from ._sinkhorn import Sinkhorn


def chosen_solver(
    solver: AbstractSolver | None, tolerance: ArrayLike | None, dtype: jnp.dtype
) -> AbstractSolver:
    """The solver that was asked for, by itself or by a tolerance.

    In float32 rounding ends a solve before Newton's step pays for its conjugate gradients, so that
    the default is `Sinkhorn`; in float64 it is `Adaptive`.

    **Raises:** `ValueError` if it is none, and if both are given.
    """
    if solver is None:
        return (Adaptive if dtype == jnp.float64 else Sinkhorn)(tolerance=tolerance)
    if not isinstance(solver, AbstractSolver):
        raise ValueError(f"`solver` must be a solver such as `Sinkhorn()`, got {solver!r}.")
    if tolerance is not None:
        raise ValueError(
            "`tolerance` is that of the default solver; with a `solver` of your own pass it there, "
            f"`{type(solver).__name__}(tolerance=...)`."
        )
    return solver
