"""Benamou and Brenier: densities through time, with walls that mass must go around.

    python examples/gallery/around_obstacles.py    # draws around_obstacles.png

The flow of least kinetic energy between two densities on a grid; without walls its energy is the
squared Wasserstein distance.
"""

import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from otjax import flow


SIDE = 32
t = (jnp.arange(SIDE) + 0.5) / SIDE
blob = lambda x, y: jnp.exp(-0.5 * ((t[:, None] - y) ** 2 + (t - x) ** 2) / 0.07**2) + 1e-6
wall = np.zeros((SIDE, SIDE), bool)
wall[10:, 15:17] = True  # it leaves a passage at one side
a, b = jnp.where(wall, 0.0, blob(0.2, 0.7)), jnp.where(wall, 0.0, blob(0.8, 0.7))

figure = Figure(figsize=(10, 4.4), layout="tight")
energies = []
for line, obstacle in zip(figure.subplots(2, 5), (None, wall), strict=True):
    found = flow.benamou_brenier(a, b, num_times=17, obstacle=obstacle, tolerance=1e-3)
    energies.append(float(found.cost))
    for ax, number in zip(line, (0, 4, 8, 12, 16), strict=True):
        density = found.density[number]
        ax.imshow(density / density.max(), cmap="Blues", origin="lower")
        if obstacle is not None:
            ax.imshow(np.where(wall, 1.0, np.nan), cmap="Greys", vmin=0, vmax=1.3, origin="lower")
        ax.set(title=f"t = {number / 16}", xticks=[], yticks=[])
print(f"energy: {energies[0]:.3f} straight, where 0.36 is exact; {energies[1]:.3f} around the wall")
figure.savefig("around_obstacles.png", dpi=80)
