"""Sets of different sizes in one batch: points of mass zero do not exist.

    python examples/gallery/ragged_sets.py    # draws ragged_sets.png

All sets are padded to the largest, and their distances are one `jax.vmap` of a `jax.vmap`. What the
padding is makes no difference: here it is far away on purpose.
"""

import jax
import numpy as np
from matplotlib.figure import Figure

import otjax


rng = np.random.default_rng(0)
kinds, sets = np.repeat([0, 1, 2], 4), []
for kind in kinds:  # rings, bars and blobs, of 15 to 40 points
    number = rng.integers(15, 41)
    t, noise = 2 * np.pi * rng.uniform(size=number), 0.1 * rng.normal(size=(number, 2))
    shapes = [np.cos(t), np.sin(t)], [t / np.pi - 1, 0 * t], rng.normal(size=(2, number)) / 2
    sets.append(np.transpose(shapes[kind]) + noise)

most = max(map(len, sets))
points = np.full((len(sets), most, 2), 1e3, np.float32)
masses = np.zeros((len(sets), most), np.float32)
for row, one in enumerate(sets):
    points[row, : len(one)], masses[row, : len(one)] = one, 1 / len(one)


def distance(x, a, y, b):
    return otjax.sinkhorn_divergence(x, y, a, b, epsilon=0.05, tolerance=1e-3)


to_all = jax.vmap(distance, in_axes=(None, None, 0, 0))
matrix = np.array(
    jax.jit(jax.vmap(to_all, in_axes=(0, 0, None, None)))(points, masses, points, masses)
)
alone = float(distance(sets[0].astype(np.float32), None, sets[1].astype(np.float32), None))
nearest = np.where(np.eye(len(sets)), np.inf, matrix).argmin(axis=1)
print(f"the first pair: {matrix[0, 1]:.5f} padded, {alone:.5f} alone")
print(f"{np.mean(kinds[nearest] == kinds):.0%} of the sets have one of their own kind nearest")

figure = Figure(figsize=(8, 3.6), layout="tight")
left, right = figure.subplots(1, 2)
image = left.imshow(np.sqrt(np.maximum(matrix, 0)), cmap="viridis")
figure.colorbar(image, ax=left, fraction=0.046, pad=0.04)
left.set(title="distances of all pairs of sets", xticks=[], yticks=[])
for row, one in enumerate(sets):
    right.scatter(*(one + 3 * np.array([row % 4, -kinds[row]])).T, s=2, color=f"C{kinds[row]}")
right.set(title="the sets", aspect="equal", xticks=[], yticks=[])
figure.savefig("ragged_sets.png", dpi=80)
