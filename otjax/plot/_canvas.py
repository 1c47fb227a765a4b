"""Where pictures go, and what counts as something to draw."""

import numpy as np
from jaxtyping import ArrayLike
from matplotlib import pyplot
from matplotlib.axes import Axes

from .._arrays import float_array


def axes_or_new(ax: Axes | None) -> Axes:
    """The axes to draw on; new ones are pyplot's, which a notebook shows by itself."""
    if ax is None:
        return pyplot.subplots()[1]
    if not isinstance(ax, Axes):
        raise ValueError(f"`ax` must be one matplotlib `Axes`, or None, got {type(ax).__name__}.")
    return ax


def row_of_axes(axes: object, number: int) -> np.ndarray:
    """As many axes as there are pictures, in a row where they are new."""
    if axes is None:
        size = (2.4 * number, 2.6)
        axes = pyplot.subplots(1, number, figsize=size, layout="constrained", squeeze=False)[1]
    row = np.asarray(axes, dtype=object).ravel()
    if len(row) != number or not all(isinstance(ax, Axes) for ax in row):
        raise ValueError(f"`axes` must be {number} matplotlib `Axes`, one for each picture.")
    return row


def plane_points(x: ArrayLike, name: str) -> np.ndarray:
    """Points that a picture can show, shape (n, 2)."""
    points = np.asarray(float_array(x, name, "n d"), dtype=float)
    if points.shape[1] != 2:
        raise ValueError(
            f"`{name}` must be points in the plane, shape (n, 2), got {points.shape}. Project them "
            "onto two directions first."
        )
    return points


def areas(mass: np.ndarray) -> np.ndarray:
    """The areas of discs, in square points of print: 20 where all masses are equal."""
    present = mass[mass > 0]
    return 20 * mass / present.mean() if present.size else mass
