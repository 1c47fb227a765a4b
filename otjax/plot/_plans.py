"""A plan as a matrix and as lines, and how much mass it moves."""

import numpy as np
from jaxtyping import ArrayLike
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection

from .._arrays import float_array
from .._solution import Solution
from ._canvas import areas, axes_or_new, plane_points


def plan_matrix(solution: object, *, ax: Axes | None = None) -> Axes:
    """Draws a plan as an image: sources are rows, targets are columns.

    **Arguments:**

    - `solution`: anything with a `plan`, such as a `Solution`, an `ExactSolution` or a
        `LineSolution`. Its matrix is formed.
    - `ax`: where to draw; None makes a new figure.

    **Returns:** the axes.

    **Raises:** `ValueError` for something without a plan.
    """
    ax = axes_or_new(ax)
    ax.imshow(_matrix(solution), cmap="Greys", vmin=0, interpolation="nearest", aspect="auto")
    ax.set(xlabel="target $j$", ylabel="source $i$")
    return ax


def plan_lines(
    solution: object,
    x: ArrayLike,
    y: ArrayLike,
    *,
    share: float = 0.05,
    ax: Axes | None = None,
) -> Axes:
    """Draws a plan as lines between points in the plane, the darker the more mass moves.

    **Arguments:**

    - `solution`: anything with a `plan`.
    - `x`, `y`: the points, shapes (n, 2) and (m, 2). The area of a disc is the mass that the plan
        has there.
    - `share`: what is less than this share of the largest entry is not drawn.
    - `ax`: where to draw; None makes a new figure.

    **Returns:** the axes.

    **Raises:** `ValueError` for points that are not in the plane, or not those of the plan.
    """
    ax, x, y = axes_or_new(ax), plane_points(x, "x"), plane_points(y, "y")
    matrix = _matrix(solution)
    if matrix.shape != (len(x), len(y)):
        raise ValueError(
            f"`x` and `y` must be the points of the plan, {matrix.shape} many, got "
            f"{(len(x), len(y))}."
        )
    drawn = (matrix > 0) & (matrix >= share * matrix.max())
    i, j = np.nonzero(drawn)
    lines = LineCollection(
        list(np.stack([x[i], y[j]], axis=1)),
        colors="0.3",
        alpha=matrix[i, j] / matrix.max() if i.size else None,
        linewidths=0.8,
        zorder=1,
    )
    ax.add_collection(lines)
    ax.scatter(*x.T, s=areas(matrix.sum(axis=1)), color="tab:blue", label="x", zorder=2)
    ax.scatter(*y.T, s=areas(matrix.sum(axis=0)), color="tab:red", label="y", zorder=2)
    ax.set_aspect("equal")
    return ax


def marginals(
    solution: Solution, positions: ArrayLike | None = None, *, ax: Axes | None = None
) -> Axes:
    """Draws the masses of the first side, and what of them an unbalanced plan moves; the other
    side is that of `solution.T`.

    **Arguments:**

    - `solution`: a `Solution`.
    - `positions`: where each point stands on the axis, shape (n,); None is its number.
    - `ax`: where to draw; None makes a new figure.

    **Returns:** the axes.

    **Raises:** `ValueError` for another number of positions than points.
    """
    ax = axes_or_new(ax)
    wanted, moved = np.asarray(solution.prepared.a), np.asarray(solution.marginals[0])
    if positions is None:
        places = np.arange(len(wanted), dtype=float)
    else:
        places = np.asarray(float_array(positions, "positions", "n"), dtype=float)
    if places.shape != wanted.shape:
        raise ValueError(
            f"`positions` must be one number for each of {len(wanted)} points, got {len(places)}."
        )
    steps = np.diff(np.unique(places))
    width = 0.8 * steps.min() if steps.size else 0.8
    ax.bar(places, wanted, width, color="0.85", label="given")
    ax.bar(places, moved, 0.6 * width, color="tab:blue", label="moved")
    ax.set_ylabel("mass")
    ax.legend()
    return ax


def _matrix(solution: object) -> np.ndarray:
    plan = getattr(solution, "plan", None)
    if plan is None or not hasattr(plan, "as_matrix"):
        raise ValueError(
            "`solution` must have a `plan`, such as what `otjax.solve` returns, got "
            f"{type(solution).__name__}."
        )
    return np.asarray(plan.as_matrix(), dtype=float)
