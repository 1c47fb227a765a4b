"""Images as measures on a grid: a distance with a gradient by every pixel, against the pixels' own.

    python examples/gallery/images_on_a_grid.py    # draws images_on_a_grid.png

A blob moves away from its place. The squared difference of pixels soon cannot tell how far; the
divergence goes on growing as the square of the way, and its gradient points there. Sums over all
pairs of pixels are made an axis at a time.
"""

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import otjax


SIDE = 32
t = (jnp.arange(SIDE) + 0.5) / SIDE
grid = otjax.Grid((t, t))


def blob(x, y):
    image = jnp.exp(-0.5 * ((t[:, None] - y) ** 2 + (t - x) ** 2) / 0.05**2)
    return (image / image.sum()).ravel()


def distance(a, b):
    return otjax.divergence(grid, grid, grid, a, b, epsilon=0.005, tolerance=1e-3)[0]


target = blob(0.2, 0.5)
ways = np.linspace(0, 0.6, 9, dtype=np.float32)
moved = jnp.stack([blob(0.2 + way, 0.5) for way in ways])
values, gradients = jax.jit(jax.vmap(jax.value_and_grad(distance), in_axes=(0, None)))(
    moved, target
)
pixels = jnp.sum((moved - target) ** 2, axis=1)
print(f"squared way 0.36: divergence {values[-1]:.3f}")

figure = Figure(figsize=(9.6, 3.2), layout="tight")
axes = figure.subplots(1, 3)
axes[0].imshow((target + moved[4]).reshape(SIDE, SIDE), cmap="Greys")
axes[0].set_title("target, and image")
slope = (gradients[4] - gradients[4].mean()).reshape(SIDE, SIDE)
axes[1].imshow(slope, cmap="coolwarm")
axes[1].set_title("gradient by the pixels")
for ax in axes[:2]:
    ax.axis("off")
axes[2].plot(ways, values, label="divergence")
axes[2].plot(ways, ways**2, "k:", label="squared way")
axes[2].plot(ways, pixels / pixels[-1] * 0.36, label="difference of pixels, scaled")
axes[2].set(xlabel="way", title="what a loss sees")
axes[2].legend(loc="lower right", fontsize=7)
figure.savefig("images_on_a_grid.png", dpi=80)
