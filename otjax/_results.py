"""How a solve can end."""

import equinox as eqx


class RESULTS(eqx.Enumeration):
    """How a solve ended; each member's text says what to change."""

    successful = ""
    max_steps_reached = (
        "The solver stopped after `max_steps` steps, short of its tolerance. Raise `max_steps`, "
        "`tolerance` or `epsilon`."
    )
    stagnated = (
        "The marginal error stopped falling short of `tolerance`, at what rounding allows. Raise "
        "`tolerance` or `epsilon`, or use float64."
    )
    nonfinite = (
        "The iteration met a number that is not finite; the last finite potentials are returned. "
        "Raise `epsilon`, or use float64."
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
        "The masses `a` and `b` of a balanced problem must have the same total. Normalise them, "
        "or pass `marginals=otjax.Unbalanced(rho)`."
    )
    invalid_epsilon = (
        "`epsilon` must be finite and positive, in units of the cost. Pass a positive `epsilon`."
    )
    invalid_rho = "`rho` must be positive and not NaN. Pass a positive `rho` to `Unbalanced`."
    invalid_cost = (
        "`cost` is not a convex function of the difference of its points, so that on the line the "
        "monotone plan is not optimal. Use `otjax.solve_exact` with a `PointCloud`."
    )
    invalid_covariance = (
        "Covariances must be finite, symmetric and positive semi-definite. Pass `(c + c.T) / 2`, "
        "and check for eigenvalues below zero."
    )
