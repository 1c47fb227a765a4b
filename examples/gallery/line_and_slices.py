"""Transport that is sorting: a geodesic on the line, and a flow in the plane along slices.

python examples/gallery/line_and_slices.py    # draws line_and_slices.png
"""

import jax
import jax.numpy as jnp
import jax.random as jr
from matplotlib.figure import Figure

import otjax


figure = Figure(figsize=(10, 4.4), layout="tight")
axes = figure.subplots(2, 5)

# On the line: three bumps become one, each quantile straight to its like.
x = jnp.linspace(-1, 1, 200)
bump = lambda centre, width: jnp.exp(-0.5 * ((x - centre) / width) ** 2)
a = bump(-0.6, 0.08) + bump(0.0, 0.05) + bump(0.7, 0.1)
b = bump(0.1, 0.25)
plan = otjax.transport_1d(x, x, a / a.sum(), b / b.sum())
for ax, t in zip(axes[0], (0, 0.25, 0.5, 0.75, 1), strict=True):
    points, mass = plan.interpolate(t)
    ax.hist(points, weights=mass, bins=50, range=(-1, 1))
    ax.set(title=f"line, t = {t}", yticks=[])
print(f"cost on the line: {plan.value:.4f}")

# In the plane: down the gradient of the sliced distance, along fresh lines in each step.
ring = jr.uniform(jr.key(0), (400,), maxval=2 * jnp.pi)
y = jnp.stack([jnp.cos(ring), jnp.sin(ring)], axis=1)


@jax.jit
def step(points, key):
    def loss(points):
        return otjax.sliced_wasserstein(points, y, num_projections=32, key=key) ** 2

    value, gradient = jax.value_and_grad(loss)(points)
    # A point of mass 1/n feels 1/n of the force, and of a half of it in each direction.
    return points - 0.25 * len(points) * gradient, value


points = 0.3 * jr.normal(jr.key(1), (400, 2)) + 1.5
values = []
for number in range(41):
    if number % 10 == 0:
        ax = axes[1, number // 10]
        ax.scatter(*y.T, s=1, color="0.7")
        ax.scatter(*points.T, s=2)
        ax.set(title=f"slices, step {number}", aspect="equal", xlim=(-1.5, 2.5), ylim=(-1.5, 2.5))
    points, value = step(points, jr.key(number + 2))
    values.append(float(value))
print(f"squared sliced distance: {values[0]:.3f} at first, {values[-1]:.5f} at last")
figure.savefig("line_and_slices.png", dpi=80)
