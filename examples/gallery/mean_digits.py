"""Barycentres of images: the mean of handwritten digits that are not aligned.

    python examples/gallery/mean_digits.py    # draws mean_digits.png

Each digit was shifted by up to four pixels on a larger canvas. The mean of pixels is blurred; the
debiased barycentre (Janati et al. 2020, arXiv:2006.02575) is a digit.
"""

import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from sklearn.datasets import load_digits

import otjax


SIDE = 16
digits = load_digits()
axis = jnp.arange(SIDE, dtype=jnp.float32)
grid = otjax.Grid((axis, axis))


def some(digit, number=10):
    """Images of one digit, each somewhere on the canvas, of total mass 1."""
    rng = np.random.default_rng(digit)
    canvas = np.zeros((number, SIDE, SIDE), np.float32)
    for image, small in zip(canvas, digits.images[digits.target == digit], strict=False):
        row, column = rng.integers(0, SIDE - 8 + 1, size=2)
        image[row : row + 8, column : column + 8] = small
    return canvas.reshape(number, -1) / canvas.sum(axis=(1, 2))[:, None]


def spread(image):
    """Its standard deviation around its middle, in pixels."""
    places = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    image = np.asarray(image)
    return np.sqrt(image @ ((places - image @ places) ** 2).sum(axis=1))


figure = Figure(figsize=(7.5, 4.6), layout="tight")
axes = figure.subplots(3, 5)
spreads = []
for column, digit in zip(axes.T, (0, 3, 5, 8, 9), strict=True):
    images = some(digit)
    found = otjax.barycenter(grid, images, epsilon=0.5, objective=otjax.Debiased(), tolerance=1e-2)
    rows = images[0], images.mean(axis=0), found.masses
    spreads.append([spread(image) for image in rows])
    for ax, image in zip(column, rows, strict=True):
        ax.imshow(np.reshape(image, (SIDE, SIDE)), cmap="Greys")
        ax.set(xticks=[], yticks=[])
for ax, name in zip(axes[:, 0], ("one of ten", "mean of pixels", "barycentre"), strict=True):
    ax.set_ylabel(name)
one, mean, barycentre = np.mean(spreads, axis=0)
print(f"spread in pixels: one {one:.2f}, mean {mean:.2f}, barycentre {barycentre:.2f}")
figure.savefig("mean_digits.png", dpi=80)
