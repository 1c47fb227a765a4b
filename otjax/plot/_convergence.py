"""How the error of a solve fell."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import ArrayLike
from matplotlib.axes import Axes

from .._arrays import float_array
from ._canvas import axes_or_new


def convergence(
    reports: Sequence[tuple[ArrayLike, ArrayLike, ArrayLike]] | ArrayLike, *, ax: Axes | None = None
) -> Axes:
    """Draws the marginal errors of a solve over its steps, by the reports of a `Watched` solver.

    Stages of the annealing, whose `epsilon` is not yet the problem's own, are pale. A first guess
    whose plan is out of range, and so has no error to speak of, is left out.

    **Arguments:**

    - `reports`: `(num_steps, error, epsilon)` of each report, shape (k, 3).
    - `ax`: where to draw; `None` is a new figure.

    **Returns:** the axes.

    **Raises:** `ValueError` for reports of another shape.
    """
    rows = np.asarray(float_array(np.asarray(reports, dtype=float), "reports", "k 3"))
    if rows.shape[1] != 3 or not len(rows):
        raise ValueError(
            "`reports` must be a list of `(num_steps, error, epsilon)`, shape (k, 3), got "
            f"{rows.shape}; wait for them by `jax.effects_barrier()`."
        )
    ax = axes_or_new(ax)
    steps, errors, epsilon = rows.T
    told = np.isfinite(errors) & (errors > 0) & (errors <= 2)  # no plan of the masses has more
    last = epsilon <= 1.001
    ax.plot(steps[told], errors[told], color="0.8", zorder=1)
    for stage, colour, label in ((~last, "0.6", "annealing"), (last, "tab:blue", "at epsilon")):
        ax.scatter(steps[told & stage], errors[told & stage], s=14, color=colour, label=label)
    ax.set(xlabel="steps", ylabel="marginal error", yscale="log")
    ax.legend()
    return ax
