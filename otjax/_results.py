"""How a solve can end, and the principle of every number that is handed out.

A number is right to its tolerance, or says that it is not. What has a status says so by that,
beside the best finite numbers that could be found. A bare scalar has none: where the input is
invalid it is NaN, with derivatives of zero, and never a number that could be taken for one; where
only the accuracy is short it is the best value found.
"""

import os
from collections.abc import Callable
from typing import TypeVar

import equinox as eqx
import jax.core
import jax.numpy as jnp
from jaxtyping import Array, Bool, PyTree

from ._varying import error_if


Token = TypeVar("Token", bound=PyTree)


class RESULTS(eqx.Enumeration):
    """How a solve ended; each member's text, which it prints as, says what failed and what to
    change."""

    successful = "successful"
    max_steps_reached = (
        "The solver stopped after `max_steps` steps, short of its tolerance. Raise `max_steps` or "
        "`tolerance`, or `epsilon` where there is one."
    )
    stagnated = (
        "The error stopped falling short of `tolerance`, most often at what rounding allows. Raise "
        "`tolerance` or `epsilon`, or in float32 use float64."
    )
    gap_stagnated = (
        "Rounding ended the approach of the bounds short of `gap`. Raise `gap`, or use float64 if "
        "the input is float32."
    )
    unresolved_epsilon = (
        "`epsilon` is below what rounding resolves at the size of these costs; the solution is "
        "that at the least epsilon which is resolved. Raise `epsilon`, or in float32 use float64."
    )
    not_symmetric = (
        "`SymmetricSinkhorn` is for a measure against itself under a symmetric cost, and this "
        "problem is not one. Pass `Sinkhorn()` or no `solver`."
    )
    other_epsilon = (
        "A self-term that was passed as a `Solution` belongs to another `epsilon` than the "
        "divergence. Solve it at the same number, or pass `epsilon=None`."
    )
    nonfinite = (
        "The iteration met a number that is not finite; the last finite potentials are returned. "
        "Raise `epsilon`, or in float32 use float64."
    )
    nonfinite_input = (
        "The points or costs contain NaN or infinity, or overflow. Clean or rescale the input of "
        "the geometry. (An entry of +inf in a cost matrix is allowed: it forbids a pair.)"
    )
    invalid_mass = (
        "The masses `a` and `b` must be finite, not negative, and not all zero. Normalise them, "
        "and mark absent points by mass 0."
    )
    unequal_mass = (
        "The masses of a balanced problem, `a` and `b` or those of all measures of a barycentre, "
        "must have the same total. Divide each by its sum, or pass "
        "`marginals=otjax.Unbalanced(rho)` where there are `marginals`."
    )
    invalid_epsilon = (
        "`epsilon` must be finite and positive, in units of the cost. Pass a positive `epsilon`."
    )
    invalid_rho = (
        "`rho` must be positive and finite. Pass such a `rho` to `Unbalanced`; for the limit of a "
        "`rho` without bound pass `marginals=otjax.Balanced()`."
    )
    invalid_share = (
        "`share` must be above 0 and at most 1, one number for both sides: no more mass can be "
        "transported than the lighter side has. Pass such a `share` to `Partial`."
    )
    invalid_weights = (
        "`weights` must be finite, not negative, and not all zero. Pass one such number for each "
        "measure."
    )
    infeasible = (
        "No plan meets the constraints: the pairs that are forbidden (by a cost of +inf, or an "
        "entry of zero) leave too little room for all masses. Allow more pairs."
    )
    no_total_support = (
        "The zeros of the matrix force further entries to zero. The matrix returned is near that "
        "limit, but its derivatives mean nothing. Set those entries to zero, or no entry at all."
    )
    negative_entries = (
        "The entries of the matrix must not be negative. Pass `jnp.exp` or `jnp.abs` of it, or its "
        "logarithms to `sinkhorn_knopp_log`."
    )
    nonfinite_path = (
        "A path along the velocity met a number that is not finite. Raise `num_steps`, or look at "
        "the velocity: it may grow without bound near the ends."
    )
    no_descent = (
        "No step along the gradient lowers the objective any more, short of `tolerance`. Raise "
        "`tolerance`, make the objective more accurate, or use float64."
    )
    not_convex = (
        "A function is not strictly convex at some points, so that its gradient is no map with a "
        "density. Raise `strong_convexity`, or use float64."
    )
    invalid_growth = "`growth` must be finite and positive, a length. Pass a positive `growth`."
    invalid_cost = (
        "`cost` is not a convex function of the difference of its points, so that on the line the "
        "monotone plan is not optimal. Use `otjax.solve_exact` with a `PointCloud`."
    )
    invalid_covariance = (
        "Covariances must be finite, symmetric and positive semi-definite. Pass `(c + c.T) / 2`, "
        "and check for eigenvalues below zero."
    )


def is_invalid(result: RESULTS) -> Bool[Array, ""]:
    """Whether a result says that the input was not a problem, so that no number means anything."""
    invalid = (
        RESULTS.nonfinite_input,
        RESULTS.invalid_mass,
        RESULTS.unequal_mass,
        RESULTS.invalid_epsilon,
        RESULTS.invalid_rho,
        RESULTS.other_epsilon,
        RESULTS.invalid_share,
        RESULTS.invalid_weights,
        RESULTS.infeasible,
        RESULTS.negative_entries,
    )
    return jnp.any(jnp.stack([result == member for member in invalid]))


def name_of(result: RESULTS) -> str:
    """The name of a member that is known: Equinox prints its text alone."""
    return next(name for name, one in RESULTS._name_to_item.items() if bool(result == one))


def raise_unless_successful(
    token: Token, result: RESULTS, numbers: Callable[[], str] = lambda: ""
) -> Token:
    """The `token`; raises a `RuntimeError` if the result, of no batch, is a failure.

    Where the result is known, its text has its name before it and `numbers()` behind it. Otherwise
    it is raised when the program runs, as Equinox raises.
    """
    failed = result != RESULTS.successful
    # `breakpoint`, `nan` and `off` are Equinox's affair.
    left_to_equinox = os.environ.get("EQX_ON_ERROR", "raise") != "raise"
    if left_to_equinox or isinstance(failed, jax.core.Tracer):
        return error_if(token, result, failed)
    if failed:
        raise RuntimeError(f"`{name_of(result)}`: {RESULTS[result]} {numbers()}".strip())
    return token
