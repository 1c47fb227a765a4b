"""Distances between sets of different sizes, in one batch: what pads a set has mass zero.

python examples/gallery/ragged_sets.py    # draws ragged_sets.png
"""

import jax
import numpy as np
from matplotlib.figure import Figure

import otjax


rng = np.random.default_rng(0)
KINDS, PER_KIND, LARGEST = 3, 5, 40


def one_set(kind, size):
    """Points on a ring, on a cross, or of a Gaussian."""
    angle = rng.uniform(0, 2 * np.pi, size)
    ring = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    along, which = rng.uniform(-1, 1, size), rng.integers(2, size=size)
    cross = np.stack([along * which, along * (1 - which)], axis=1)
    return (ring, cross, 0.4 * rng.normal(size=(size, 2)))[kind]


sets = [one_set(kind, rng.integers(15, LARGEST)) for kind in range(KINDS) for _ in range(PER_KIND)]
points = np.zeros((len(sets), LARGEST, 2), np.float32)
masses = np.zeros((len(sets), LARGEST), np.float32)
for number, members in enumerate(sets):
    points[number, : len(members)] = members
    masses[number, : len(members)] = 1 / len(members)


@jax.jit
def all_pairs(points, masses):
    def divergence(x, a, y, b):
        return otjax.sinkhorn_divergence(x, y, a, b, epsilon=0.05)

    to_all = jax.vmap(divergence, in_axes=(None, None, 0, 0))
    return jax.vmap(to_all, in_axes=(0, 0, None, None))(points, masses, points, masses)


distances = np.asarray(all_pairs(points, masses))
np.fill_diagonal(distances, np.inf)
kinds = np.repeat(np.arange(KINDS), PER_KIND)
accuracy = np.mean(kinds[distances.argmin(axis=1)] == kinds)
print(f"sizes from {min(map(len, sets))} to {max(map(len, sets))}; the nearest set is of the same")
print(f"kind for {accuracy:.0%} of {len(sets)} sets")

np.fill_diagonal(distances, 0)
ax = Figure(figsize=(4, 4)).subplots()
ax.imshow(distances, cmap="Greys")
middles = PER_KIND * np.arange(KINDS) + (PER_KIND - 1) / 2
ax.set_xticks(middles, ["rings", "crosses", "Gaussians"])
ax.set_yticks(middles, ["rings", "crosses", "Gaussians"], rotation=90, va="center")
ax.set_title("divergence of each pair of sets")
ax.figure.savefig("ragged_sets.png", dpi=80)
