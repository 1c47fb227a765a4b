"""The Birkhoff polytope and its siblings: matrices scaled to given marginals."""

from typing import NamedTuple

import equinox as eqx
import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from ._arrays import constant, count, float_array, optional_positive_number
from ._control import cond_any
from ._geometry import CostMatrix
from ._problem import EntropicProblem
from ._results import is_invalid, RESULTS
from ._solution import Solution, Stats
from ._solve import solve
from ._solver import AbstractSolver
from ._support import lacks_total_support, overfull


class ScaledMatrix(eqx.Module):
    r"""A matrix scaled to given marginals, $S_{ij} = e^{r_i} A_{ij} e^{c_j}$.

    - `matrix`: $S$, shape (n, m); zero where $A$ is. Differentiable in $A$ and the marginals, in
        both modes and at every order. An entry of zero is not there: it has the derivative 0.
    - `log_scalings`: $(r, c)$, shapes (n,) and (m,); `-inf` for rows and columns of mass zero.
    - `result`: a member of `RESULTS`. Besides what `solve` returns, `infeasible` if no matrix with
        these zeros has these marginals, `no_total_support` if further entries had to become zero,
        and `negative_entries`. Numbers are finite whatever it is.
    - `stats`: steps of the solver, and the L1 errors of both marginals over the total mass.
    """

    matrix: Float[Array, "n m"]
    log_scalings: tuple[Float[Array, " n"], Float[Array, " m"]]
    result: RESULTS
    stats: Stats


class _Options(NamedTuple):
    """How to solve, as `solve` understands it."""

    solver: AbstractSolver | None
    tolerance: Float[Array, ""] | None
    max_steps: Int[Array, ""] | None


def sinkhorn_knopp(
    matrix: ArrayLike,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    solver: AbstractSolver | None = None,
    tolerance: ArrayLike | None = None,
    max_steps: int | Int[Array, ""] | None = None,
) -> ScaledMatrix:
    r"""Scales the rows and columns of a non-negative matrix such that they sum to `a` and `b`.

    With the defaults, the scaling of a square matrix that is doubly stochastic. It is the matrix
    of these marginals that is closest to `matrix` in the Kullback-Leibler divergence, that is, the
    plan of entropic transport with costs $-\log A_{ij}$ and `epsilon` 1, and solved as that:
    derivatives are those of the solution, not of the iterations. For logits, see
    `sinkhorn_knopp_log`.

    **Arguments:**

    - `matrix`: the matrix $A$, shape (n, m), of entries that are not negative. Zeros stay zero.
    - `a`, `b`: the sums of rows, shape (n,), and of columns, shape (m,), of one total; `None` is 1
        for each. A row or column of mass zero becomes zero, whatever its entries.
    - `solver`, `tolerance`, `max_steps`: as in `solve`, but that in float64 the default tolerance
        is 1e-12, or what rounding allows if that is more.

    **Returns:** a `ScaledMatrix`. Never raises for values: look at `result`.

    **Raises:** `ValueError` for wrong shapes, dtypes and types, and for a matrix that is not
    square where `a` or `b` would be needed.
    """
    matrix = float_array(matrix, "matrix", "n m")
    options = _options(solver, tolerance, max_steps)
    return _scale_entries(matrix, _marginals(matrix, a, b), options)


def sinkhorn_knopp_log(
    log_matrix: ArrayLike,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    solver: AbstractSolver | None = None,
    tolerance: ArrayLike | None = None,
    max_steps: int | Int[Array, ""] | None = None,
) -> ScaledMatrix:
    r"""`sinkhorn_knopp` of a matrix that is given by its logarithms, such as logits over a
    temperature; they may be of any size. The matrix itself is never formed.

    **Arguments:**

    - `log_matrix`: the logarithms, shape (n, m); `-inf` is an entry of zero.
    - `a`, `b`, `solver`, `tolerance`, `max_steps`: as in `sinkhorn_knopp`.

    **Returns:** a `ScaledMatrix`; its `matrix` holds the entries, not their logarithms.

    **Raises:** as `sinkhorn_knopp`.
    """
    logs = float_array(log_matrix, "log_matrix", "n m")
    return _scale_logs(logs, _marginals(logs, a, b), _options(solver, tolerance, max_steps))


@eqx.filter_jit
def _scale_entries(
    matrix: Float[Array, "n m"],
    marginals: tuple[Float[Array, " n"], Float[Array, " m"]],
    options: _Options,
) -> ScaledMatrix:
    positive = matrix > 0
    logs = jnp.log(jnp.where(positive, matrix, 1))
    # What is NaN stays so, to be found with all that is not finite.
    logs = jnp.where(positive | jnp.isnan(matrix), logs + 0 * matrix, -jnp.inf)
    scaled = _scale_logs(logs, marginals, options)
    result = RESULTS.where(jnp.any(matrix < 0), RESULTS.negative_entries, scaled.result)
    return eqx.tree_at(lambda scaled: scaled.result, scaled, result)


@eqx.filter_jit
def _scale_logs(
    logs: Float[Array, "n m"],
    marginals: tuple[Float[Array, " n"], Float[Array, " m"]],
    options: _Options,
) -> ScaledMatrix:
    a, b = marginals
    problem = EntropicProblem(CostMatrix(-logs), a, b, epsilon=1.0)
    tolerance = options.tolerance
    if options.solver is None and tolerance is None and logs.dtype == jnp.float64:
        tolerance = _fine_tolerance(logs)
    solution = solve(
        problem, options.solver, tolerance=tolerance, max_steps=options.max_steps, throw=False
    )
    matrix = solution.plan.as_matrix()
    r, c = (
        potential + jnp.where(mass > 0, jnp.log(jnp.where(mass > 0, mass, 1)), -jnp.inf)
        for potential, mass in zip(solution.potentials, (a, b), strict=True)
    )
    result = _with_support(logs > -jnp.inf, solution, matrix)
    return ScaledMatrix(matrix, (r, c), result, solution.stats)


def _with_support(
    positive: Bool[Array, "n m"], solution: Solution, matrix: Float[Array, "n m"]
) -> RESULTS:
    """The result of the solve, or what the zeros of the matrix say about it."""
    a, b, f, matrix = constant(
        (solution.problem.a, solution.problem.b, solution.potentials[0], matrix)
    )
    result, error = solution.result, solution.stats.marginal_error * jnp.sum(a)
    allowed = positive & (a > 0)[:, None] & (b > 0)[None, :]
    failed = ~is_invalid(result) & (result != RESULTS.successful)
    infeasible = cond_any(failed, lambda: overfull(allowed, a, b, f), lambda: jnp.array(False))
    partial = ~is_invalid(result) & lacks_total_support(allowed, a, b, matrix, error)
    result = RESULTS.where(partial, RESULTS.no_total_support, result)
    return RESULTS.where(failed & infeasible, RESULTS.infeasible, result)


def _fine_tolerance(logs: Float[Array, "n m"]) -> Float[Array, ""]:
    """In double precision sums are as asked for, as far as rounding of logarithms allows."""
    known = jnp.where(jnp.isfinite(logs), lax.stop_gradient(logs), jnp.nan)
    spread = jnp.nanmax(known) - jnp.nanmin(known)
    rounding = 16 * jnp.finfo(logs.dtype).eps * (1 + spread)
    return jnp.fmin(jnp.fmax(rounding, 1e-12), 1e-2)


def _options(
    solver: AbstractSolver | None,
    tolerance: ArrayLike | None,
    max_steps: int | Int[Array, ""] | None,
) -> _Options:
    return _Options(
        solver,
        optional_positive_number(tolerance, "tolerance"),
        None if max_steps is None else count(max_steps, "max_steps"),
    )


def _marginals(
    matrix: Float[Array, "n m"], a: ArrayLike | None, b: ArrayLike | None
) -> tuple[Float[Array, " n"], Float[Array, " m"]]:
    n, m = matrix.shape
    if n != m and (a is None or b is None):
        raise ValueError(
            f"`matrix` must be square if `a` or `b` is left open, got shape {matrix.shape}; pass "
            "both sums, of one total."
        )
    return _sums(a, "a", n, matrix.dtype), _sums(b, "b", m, matrix.dtype)


def _sums(sums: ArrayLike | None, name: str, size: int, dtype: jnp.dtype) -> Float[Array, "..."]:
    if sums is None:
        return jnp.ones((size,), dtype)
    array = float_array(sums, name, "sums").astype(dtype)
    if array.shape != (size,):
        side = {"a": "row", "b": "column"}[name]
        raise ValueError(
            f"`{name}` must have one number for each {side}, shape ({size},), got {array.shape}."
        )
    return array
