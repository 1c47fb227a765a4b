"""Maps and potentials in the plane."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike
from matplotlib.axes import Axes

from .._arrays import float_array
from ._canvas import axes_or_new, plane_points


MARGIN = 0.1  # of the picture around the points, as a share of their extent


def map_arrows(
    transport: Callable[[Array], ArrayLike], x: ArrayLike, *, ax: Axes | None = None
) -> Axes:
    """Draws a map of the plane as arrows from points to their images.

    **Arguments:**

    - `transport`: the map of points, shape (n, 2), to their images, such as `solution.transport`,
        or what `otjax.gaussian_map` returns.
    - `x`: where arrows begin, shape (n, 2).
    - `ax`: where to draw; None makes a new figure.

    **Returns:** the axes.

    **Raises:** `ValueError` for points, or images, that are not in the plane.
    """
    ax, starts = axes_or_new(ax), plane_points(x, "x")
    images = plane_points(transport(float_array(x, "x", "n d")), "transport(x)")
    if images.shape != starts.shape:
        raise ValueError(
            f"`transport(x)` must be one point for each of {len(starts)}, got {len(images)}."
        )
    # An arrow from point to point, in the unit of the axes.
    ax.quiver(*starts.T, *(images - starts).T, angles="xy", scale_units="xy", scale=1, width=3e-3)
    ends = np.concatenate([starts, images])
    ax.update_datalim(ends)
    ax.autoscale_view()
    ax.set_aspect("equal")
    return ax


def potential(
    function: Callable[[Array], ArrayLike],
    x: ArrayLike,
    *,
    resolution: int = 60,
    levels: int = 15,
    ax: Axes | None = None,
) -> Axes:
    """Draws a potential in the plane as filled contours around points.

    **Arguments:**

    - `function`: the potential of points, shape (k, 2), to numbers, shape (k,), such as
        `solution.potential` or, of the second side, `solution.T.potential`.
    - `x`: points to draw on it, shape (n, 2); the picture is their rectangle, and a tenth more.
    - `resolution`: how many points it is computed at along each side.
    - `levels`: how many contours.
    - `ax`: where to draw; None makes a new figure.

    **Returns:** the axes.

    **Raises:** `ValueError` for points that are not in the plane.
    """
    ax, points = axes_or_new(ax), plane_points(x, "x")
    low, high = points.min(axis=0), points.max(axis=0)
    margin = MARGIN * np.maximum(high - low, np.finfo(np.float32).tiny)
    horizontal, vertical = np.linspace(low - margin, high + margin, resolution).T
    mesh = np.stack(np.meshgrid(horizontal, vertical), axis=-1)
    dtype = float_array(x, "x", "n d").dtype
    values = np.asarray(function(jnp.asarray(mesh.reshape(-1, 2), dtype)), dtype=float)
    filled = ax.contourf(horizontal, vertical, values.reshape(mesh.shape[:2]), levels)
    figure = ax.get_figure()
    if figure is not None:
        figure.colorbar(filled, ax=ax, fraction=0.046, pad=0.04)  # as high as the picture
    ax.scatter(*points.T, s=4, color="white", edgecolors="black", linewidths=0.3)
    ax.set_aspect("equal")
    return ax
