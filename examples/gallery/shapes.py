"""One shape becomes another: points flow down the Sinkhorn divergence, or go straight.

python examples/gallery/shapes.py    # draws shapes.png
"""

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import otjax


rng = np.random.default_rng(0)


def inside(test, number=350):
    """Uniform points of the square where `test` holds."""
    points = rng.uniform(-1.2, 1.2, size=(20 * number, 2)).astype(np.float32)
    return jnp.asarray(points[test(*points.T)][:number])


x = inside(lambda u, v: (u**2 + v**2 - 0.6) ** 3 - 1.2 * u**2 * v**3 < 0)  # a heart
y = inside(lambda u, v: np.hypot(u, v) < 0.75 + 0.35 * np.cos(5 * np.arctan2(u, v)))  # a star


@jax.jit
def step(points):
    loss = lambda points: otjax.sinkhorn_divergence(points, y, epsilon=0.002, tolerance=1e-2)
    value, gradient = jax.value_and_grad(loss)(points)
    return points - 0.15 * len(points) * gradient, value


flow, values = [x], []
for _ in range(25):
    points, value = step(flow[-1])
    flow.append(points)
    values.append(float(value))
columns = otjax.assignment(otjax.SqEuclidean().pairwise(x, y)).columns
print(f"divergence: {values[0]:.4f} at first, {values[-1]:.5f} after 25 steps")

figure = Figure(figsize=(10, 4.4), layout="tight")
axes = figure.subplots(2, 5)
for ax, number in zip(axes[0], (0, 3, 6, 12, 25), strict=True):
    ax.scatter(*flow[number].T, s=2, c=x[:, 0], cmap="coolwarm")
    ax.set_title(f"flow, step {number}")
for ax, t in zip(axes[1], (0, 0.25, 0.5, 0.75, 1), strict=True):
    ax.scatter(*((1 - t) * x + t * y[columns]).T, s=2, c=x[:, 0], cmap="coolwarm")
    ax.set_title(f"straight, t = {t}")
for ax in axes.flat:
    ax.set(aspect="equal", xlim=(-1.3, 1.3), ylim=(-1.3, 1.3), xticks=[], yticks=[])
figure.savefig("shapes.png", dpi=70)
