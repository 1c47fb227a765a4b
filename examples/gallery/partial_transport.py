"""Partial transport: a scan of a part is laid on the whole, and what has no partner stays out.

    python examples/gallery/partial_transport.py    # draws partial_transport.png

A share of the mass is matched, the one that costs least, and a rotation is fitted to the pairs, in
turn. Balanced transport must match all, and pulls the part over the whole.
"""

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from matplotlib.figure import Figure

import otjax


t = np.linspace(0, 2 * np.pi, 160, endpoint=False)
radius = 1 + 0.3 * np.cos(3 * t) + 0.2 * np.sin(2 * t)
whole = jnp.asarray(np.stack([radius * np.cos(t), radius * np.sin(t)], axis=1), jnp.float32)
angle = np.deg2rad(20)
turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]], np.float32)
clutter = jr.uniform(jr.key(0), (16, 2), minval=-0.4, maxval=0.4)
part = jnp.vstack([(whole[:80] @ turn.T + 0.1), clutter])  # half of it, turned, with clutter


def register(marginals, steps=15):
    """Turns and shifts the part, to where the plan has its mass, again and again."""
    moved = part
    for _ in range(steps):
        a = jnp.full(len(part), 1 / 160)
        if isinstance(marginals, otjax.Balanced):
            a = jnp.full(len(part), 1 / len(part))
        problem = otjax.EntropicProblem(
            otjax.PointCloud(moved, whole), a, epsilon=0.01, marginals=marginals
        )
        solution = otjax.solve(problem, tolerance=1e-2, throw=False)
        mass = solution.marginals[0]
        goal = solution.plan.mv(whole[:, 0]), solution.plan.mv(whole[:, 1])
        goal = jnp.stack(goal, axis=1) / jnp.maximum(mass, 1e-9)[:, None]
        mean, mean_goal = (mass @ points / mass.sum() for points in (moved, goal))
        u, _, vt = jnp.linalg.svd(((goal - mean_goal) * mass[:, None]).T @ (moved - mean))
        rotation = u @ jnp.diag(jnp.array([1.0, jnp.linalg.det(u @ vt)])) @ vt
        moved = (moved - mean) @ rotation.T + mean_goal
    return moved, mass


error = lambda moved: jnp.sqrt(jnp.mean(jnp.sum((moved[:80] - whole[:80]) ** 2, axis=1)))
figure = Figure(figsize=(10, 3.6), layout="tight")
axes = figure.subplots(1, 3)
found = {"balanced": register(otjax.Balanced()), "partial": register(otjax.Partial(0.45))}
ends = {"before": (part, None)} | found
for ax, (name, (moved, mass)) in zip(axes, ends.items(), strict=True):
    ax.scatter(*whole.T, s=4, color="0.7")
    ax.scatter(*moved.T, s=6, **({} if mass is None else {"c": mass}))
    ax.set(title=f"{name}: error {error(moved):.3f}", aspect="equal", xticks=[], yticks=[])
print(", ".join(f"{name}: {error(moved):.3f}" for name, (moved, _) in ends.items()))
figure.savefig("partial_transport.png", dpi=80)
