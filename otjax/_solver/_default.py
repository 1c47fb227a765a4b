"""The method where a user names none."""

import jax.numpy as jnp
from jaxtyping import ArrayLike

from ._adaptive import Adaptive
from ._base import AbstractSolver
from ._sinkhorn import Sinkhorn


def default_solver(tolerance: ArrayLike | None, dtype: jnp.dtype) -> AbstractSolver:
    """`Adaptive` in float64; in float32, where rounding ends a solve before Newton's step pays for
    its conjugate gradients, `Sinkhorn`."""
    return (Adaptive if dtype == jnp.float64 else Sinkhorn)(tolerance=tolerance)
