"""Domain adaptation: labels of one set for another that was turned and shifted.

    python examples/gallery/domain_adaptation.py    # draws domain_adaptation.png

The labelled points are moved by the entropic map; then each new point takes the label of the
nearest one (Courty et al. 2017, doi:10.1109/TPAMI.2016.2615921).
"""

import numpy as np
from matplotlib.figure import Figure

import otjax
from otjax import plot


rng = np.random.default_rng(0)


def moons(number):
    """Two crescents, and which of them each point is of."""
    label = rng.integers(2, size=number)
    angle = np.pi * rng.uniform(size=number) + np.pi * label
    centre = np.stack([label - 0.5, 0.5 * label - 0.25], axis=1)
    points = np.stack([np.cos(angle), np.sin(angle)], axis=1) + centre
    return (points + 0.1 * rng.normal(size=points.shape)).astype(np.float32), label


def accuracy(points, labels, new, true):
    """Of the nearest neighbour."""
    distances = np.square(new[:, None] - points[None]).sum(axis=2)
    return np.mean(labels[distances.argmin(axis=1)] == true)


source, labels = moons(300)
target, hidden = moons(300)
turn = np.deg2rad(40)
rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]], np.float32)
target = target @ rotation.T + np.array([0.5, 1.0], np.float32)

problem = otjax.EntropicProblem(otjax.PointCloud(source, target), epsilon=otjax.Relative(0.01))
solution = otjax.solve(problem, tolerance=1e-3)
moved = np.asarray(solution.transport(source))
before = accuracy(source, labels, target, hidden)
after = accuracy(moved, labels, target, hidden)
print(f"accuracy: {before:.1%} before transport, {after:.1%} after")

left, right = Figure(figsize=(8, 4), layout="tight").subplots(1, 2, sharex=True, sharey=True)
left.scatter(*target.T, s=8, color="0.7")
left.scatter(*source.T, s=8, c=labels, cmap="coolwarm")
plot.map_arrows(solution.transport, source[:40], ax=left)
left.set_title(f"before: {before:.0%} right")
right.scatter(*target.T, s=8, color="0.7")
right.scatter(*moved.T, s=8, c=labels, cmap="coolwarm")
right.set(title=f"after: {after:.0%} right", aspect="equal")
left.figure.savefig("domain_adaptation.png", dpi=80)
