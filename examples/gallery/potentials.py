"""What a solution knows of the plane between its points: potentials and maps, both ways.

python examples/gallery/potentials.py    # draws potentials.png
"""

import jax.numpy as jnp
import jax.random as jr
from matplotlib.figure import Figure

import otjax
from otjax import plot


angle = jr.uniform(jr.key(0), (150,), maxval=2 * jnp.pi)
x = jr.normal(jr.key(1), (150, 2)) / 3
y = jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1)
solution = otjax.solve(otjax.EntropicProblem(otjax.PointCloud(x, y), epsilon=0.05), tolerance=1e-3)

axes = Figure(figsize=(11, 3.6), layout="tight").subplots(1, 3)
plot.potential(solution.potential, x, ax=axes[0]).set_title("first potential")
plot.potential(solution.T.potential, y, ax=axes[1]).set_title("second potential")
plot.map_arrows(solution.transport, x, ax=axes[2]).set_title("map")
axes[0].figure.savefig("potentials.png", dpi=80)
radius = jnp.linalg.norm(solution.transport(x), axis=1)
print(f"distance of the images from the centre: {radius.min():.2f} to {radius.max():.2f}")
