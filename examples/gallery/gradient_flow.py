"""A Wasserstein gradient flow: particles in two wells, which spread by their entropy.

    python examples/gallery/gradient_flow.py    # draws gradient_flow.png

The flow of energy plus entropy is the Fokker-Planck equation: it ends at the density exp(-V).
"""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from matplotlib.figure import Figure

import otjax
from otjax import flow


def well(x):
    return 2 * (x[0] ** 2 - 1) ** 2 + 2 * x[1] ** 2


@jax.jit
def free_energy(x):
    return flow.potential_energy(well, x) + flow.entropy(x, bandwidth=0.2)


x = 0.1 * jr.normal(jr.key(0), (400, 2)) + jnp.array([0.1, 1.0])
panels = {0.0: x}
for steps in (8, 40, 150):
    found = flow.gradient_flow(free_energy, x, step_size=0.01, tolerance=1e-3, max_steps=steps)
    panels[float(found.time)] = found.samples

line = np.linspace(-2, 2, 100, dtype=np.float32)
plane = jnp.stack(jnp.meshgrid(line, line), axis=-1)
density = jnp.exp(-jax.vmap(jax.vmap(well))(plane)).ravel()
wanted = otjax.wasserstein_1d(
    found.samples[:, 0], plane.reshape(-1, 2)[:, 0], b=density / density.sum()
)
first = otjax.wasserstein_1d(x[:, 0], plane.reshape(-1, 2)[:, 0], b=density / density.sum())
print(f"free energy: {free_energy(x):.3f} at first, {found.value:.3f} at last")
print(f"W1 of the first coordinates to exp(-V): {first:.3f} at first, {wanted:.3f} at last")

figure = Figure(figsize=(11, 3), layout="tight")
for ax, (time, points) in zip(figure.subplots(1, 4), panels.items(), strict=True):
    ax.contourf(line, line, density.reshape(100, 100), 8, cmap="Greys", alpha=0.6)
    ax.scatter(*points.T, s=3)
    ax.set(title=f"t = {time:.2f}", aspect="equal", xlim=(-2, 2), ylim=(-1.6, 1.6))
figure.savefig("gradient_flow.png", dpi=80)
