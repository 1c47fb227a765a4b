"""Semi-discrete transport: a square divided among points, to each the same area.

    python examples/gallery/cells_of_equal_area.py    # draws cells_of_equal_area.png

The square is known by samples alone. Nearest points would leave some a sliver and others a field.
"""

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from matplotlib.figure import Figure

import otjax


y = jr.uniform(jr.key(0), (30, 2)) ** 2  # they crowd in a corner


def square(key):
    return jr.uniform(key, (512, 2))


found = otjax.semidiscrete(
    square, y, key=jr.key(1), ascent=otjax.StochasticAscent(max_steps=1500), throw=False
)
side = 300
line = (jnp.arange(side) + 0.5) / side
pixels = jnp.stack(jnp.meshgrid(line, line), axis=-1).reshape(-1, 2)
nearest, _ = otjax.nearest(pixels, y, jnp.zeros(len(y)))
fair = found.assign(pixels)
sizes = [np.bincount(cells, minlength=len(y)) / side**2 * len(y) for cells in (nearest, fair)]
for name, size in zip(("nearest point", "transport"), sizes, strict=True):
    print(f"{name}: areas from {size.min():.2f} to {size.max():.2f} of a fair share")

figure = Figure(figsize=(8, 4.1), layout="tight")
shades = np.random.default_rng(0).permutation(len(y))
for ax, title, cells in zip(
    figure.subplots(1, 2), ("nearest point", "cells of equal area"), (nearest, fair), strict=True
):
    picture = shades[np.asarray(cells)].reshape(side, side)
    ax.imshow(picture, origin="lower", extent=(0, 1, 0, 1), cmap="tab20", alpha=0.6)
    ax.scatter(*y.T, s=8, color="black")
    ax.set(title=title, xticks=[], yticks=[], xlim=(0, 1), ylim=(0, 1))
figure.savefig("cells_of_equal_area.png", dpi=80)
