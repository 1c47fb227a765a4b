"""Measures at several times, side by side or one after another."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import ArrayLike
from matplotlib.animation import FuncAnimation
from matplotlib.axes import Axes

from .._arrays import float_array
from ._canvas import areas, axes_or_new, plane_points, row_of_axes


Interpolation = Callable[[ArrayLike], tuple[ArrayLike, ArrayLike]]
MARGIN = 0.05  # around all points of all times, as a share of their extent


def frames(
    interpolate: Interpolation,
    times: Sequence[int | float] | ArrayLike,
    *,
    axes: Sequence[Axes] | np.ndarray | None = None,
) -> np.ndarray:
    """Draws a measure that moves through the plane, a picture for each time.

    **Arguments:**

    - `interpolate`: maps a time to points and their masses, shapes (k, 2) and (k,). A point of
        mass zero is not drawn.
    - `times`: the times, shape (number,).
    - `axes`: as many axes; None makes a new figure with them in a row.

    **Returns:** the axes, an array of shape (number,). All have the same limits.

    **Raises:** `ValueError` for points that are not in the plane, or another number of axes.
    """
    times, clouds = _clouds(interpolate, times)
    row = row_of_axes(axes, len(times))
    for ax, time, (points, mass) in zip(row, times, clouds, strict=True):
        ax.scatter(*points.T, s=areas(mass))
        _frame(ax, clouds)
        ax.set_title(f"t = {time:.3g}")
    return row


def animate(
    interpolate: Interpolation,
    times: Sequence[int | float] | ArrayLike,
    *,
    interval: int = 50,
    ax: Axes | None = None,
) -> FuncAnimation:
    """The same as one picture that moves.

    **Arguments:**

    - `interpolate`, `times`: as for `frames`. As many points at all times.
    - `interval`: milliseconds from frame to frame.
    - `ax`: where to draw; None makes a new figure.

    **Returns:** the animation, to be kept while it is shown; `.save("flow.gif", writer="pillow")`
    writes it, and `.to_jshtml()` puts it into a notebook.

    **Raises:** `ValueError` as `frames`.
    """
    times, clouds = _clouds(interpolate, times)
    ax = axes_or_new(ax)
    discs = ax.scatter(*clouds[0][0].T, s=areas(clouds[0][1]))
    title = ax.set_title("")
    _frame(ax, clouds)

    def show(number: int) -> list:
        points, mass = clouds[number]
        discs.set_offsets(points)
        discs.set_sizes(areas(mass))
        title.set_text(f"t = {times[number]:.3g}")
        return [discs, title]

    figure = ax.figure
    return FuncAnimation(figure.get_figure(root=True), show, len(times), interval=interval)


def density_frames(
    density: ArrayLike,
    *,
    number: int = 5,
    axes: Sequence[Axes] | np.ndarray | None = None,
) -> np.ndarray:
    """Draws densities on a grid through time, such as those of `otjax.flow.benamou_brenier`.

    **Arguments:**

    - `density`: shape (times, n_1) or (times, n_1, n_2), at equally spaced times from 0 to 1. The
        first coordinate of the plane is horizontal.
    - `number`: how many of the times to draw, both ends included.
    - `axes`: as many axes; None makes a new figure with them in a row.

    **Returns:** the axes, an array of shape (number,). All have the same scale.

    **Raises:** `ValueError` for another number of dimensions, or of axes.
    """
    values = np.asarray(density, dtype=float)
    if values.ndim not in (2, 3):
        raise ValueError(
            "`density` must have shape (times, n_1) or (times, n_1, n_2), got "
            f"{values.shape}. Sum it over further coordinates."
        )
    row = row_of_axes(axes, number)
    chosen = np.linspace(0, len(values) - 1, number).round().astype(int)
    largest = values.max()
    for ax, place in zip(row, chosen, strict=True):
        if values.ndim == 2:
            centres = (np.arange(values.shape[1]) + 0.5) / values.shape[1]
            ax.fill_between(centres, values[place])
            ax.set(xlim=(0, 1), ylim=(0, 1.05 * largest))
        else:
            extent = (0, 1, 0, 1)
            image = values[place].T
            ax.imshow(image, origin="lower", extent=extent, vmin=0, vmax=largest, cmap="Greys")
        ax.set_title(f"t = {place / max(len(values) - 1, 1):.3g}")
    return row


def _clouds(
    interpolate: Interpolation, times: Sequence[int | float] | ArrayLike
) -> tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray]]]:
    numbers = np.asarray(times, dtype=float)
    if numbers.ndim != 1 or not len(numbers):
        raise ValueError(f"`times` must have shape (number,), got {numbers.shape}.")
    clouds = []
    for time in numbers:
        points, mass = interpolate(float(time))
        points = plane_points(points, "interpolate(t)[0]")
        mass = np.asarray(float_array(mass, "interpolate(t)[1]", "k"), dtype=float)
        if mass.shape != points.shape[:1]:
            raise ValueError(
                f"`interpolate(t)` must give one mass for each of {len(points)} points, got "
                f"{len(mass)}."
            )
        clouds.append((points, mass))
    return numbers, clouds


def _frame(ax: Axes, clouds: list[tuple[np.ndarray, np.ndarray]]) -> None:
    """Limits that hold all points of all times."""
    everything = np.concatenate([points for points, _ in clouds])
    low, high = everything.min(axis=0), everything.max(axis=0)
    margin = MARGIN * max(*(high - low), np.finfo(np.float32).tiny)
    ax.set(xlim=(low[0] - margin, high[0] + margin), ylim=(low[1] - margin, high[1] + margin))
    ax.set_aspect("equal")
