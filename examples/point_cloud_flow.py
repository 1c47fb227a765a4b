"""Moves a ball of points onto a shape by gradient descent on the Sinkhorn divergence.

    python examples/point_cloud_flow.py                    # onto a trefoil knot
    python examples/point_cloud_flow.py --obj bunny.obj    # onto the vertices of a mesh

Plain JAX, drawn into one picture. Needs `otjax[examples]`.
"""

import dataclasses
import math
import sys
from pathlib import Path
from typing import NoReturn

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from matplotlib.figure import Figure
from tqdm import trange

import otjax


@dataclasses.dataclass(frozen=True)
class Config:
    """A ball of points flows onto a shape, down the gradient of the Sinkhorn divergence."""

    obj: Path | None = None  # a Wavefront .obj file to take vertices from, instead of the knot
    points: int = 2000  # of each cloud, at most; of more vertices a random part is taken
    stages: int = 5  # pictures after the first
    steps: int = 6  # gradient steps in each stage
    step_size: float = 0.1  # 1 would take each point to the mean of where its mass goes
    epsilon: float = 0.002  # in squared distance; the mean squared radius of the shape is 1
    seed: int = 0
    output: Path = Path("outputs/flow/flow.png")


def fail(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


def read_vertices(path: Path) -> np.ndarray:
    try:
        lines = path.read_text().splitlines()
        rows = [line.split()[1:4] for line in lines if line.startswith("v ")]
        vertices = np.array(rows, dtype=float).reshape(-1, 3)
    except (OSError, ValueError) as error:
        fail(f"--obj: {path} cannot be read as a Wavefront .obj file: {error}.")
    if not (np.isfinite(vertices).all() and len(np.unique(vertices, axis=0)) > 1):
        fail(f"--obj: {path} must hold two distinct vertices at least, as lines `v x y z`.")
    return vertices


def ball(rng: np.random.Generator, num: int) -> np.ndarray:
    direction = rng.normal(size=(num, 3))
    radius = np.cbrt(rng.uniform(size=(num, 1)))
    return radius * direction / np.linalg.norm(direction, axis=1, keepdims=True)


def trefoil(rng: np.random.Generator, num: int) -> np.ndarray:
    t = rng.uniform(0, 2 * np.pi, num)
    x, y = np.sin(t) + 2 * np.sin(2 * t), np.cos(t) - 2 * np.cos(2 * t)
    return np.stack([x, y, -np.sin(3 * t)], axis=1) + 0.4 * ball(rng, num)


@jax.jit
def flow(x, y, epsilon, step_size, steps):
    """Takes a gradient step for each of `steps`; also the loss and the failed solves of each."""

    def loss_fn(x):
        return otjax.sinkhorn_divergence(x, y, epsilon=epsilon, has_aux=True)

    def step(x, _):
        (loss, solutions), gradient = jax.value_and_grad(loss_fn, has_aux=True)(x)
        failed = jnp.stack([s.result != otjax.RESULTS.successful for s in solutions])
        # A point of mass 1/n feels 1/n of the force; the half undoes the square in the cost.
        return x - step_size * 0.5 * x.shape[0] * gradient, (loss, jnp.sum(failed))

    return jax.lax.scan(step, x, steps)


def draw(clouds: list[np.ndarray], steps: int, output: Path) -> None:
    """The clouds in a row, each point in the colour of the height where it began."""
    figure = Figure(figsize=(2.5 * len(clouds), 2.8))
    limits = (-1.6, 1.6)
    for index, cloud in enumerate(clouds):
        axis = figure.add_subplot(1, len(clouds), index + 1, projection="3d", azim=-75, elev=10)
        # Height is the second coordinate, as meshes have it; the picture's is the third.
        axis.scatter(cloud[:, 0], -cloud[:, 2], cloud[:, 1], c=clouds[0][:, 1], s=2)
        axis.set(xlim=limits, ylim=limits, zlim=limits, title=f"step {index * steps}")
        axis.set_box_aspect((1, 1, 1), zoom=1.6)
        axis.set_axis_off()
    figure.subplots_adjust(left=0, right=1, bottom=0, top=0.9, wspace=0)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=120)


def main(config: Config) -> None:
    for name, least in (("points", 2), ("stages", 1), ("steps", 1), ("seed", 0)):
        if getattr(config, name) < least:
            fail(f"--{name} must be at least {least}, got {getattr(config, name)}.")
    if not (0 < config.step_size < math.inf and 0 < config.epsilon < math.inf):
        fail("--step-size and --epsilon must be positive and finite.")
    rng = np.random.default_rng(config.seed)
    shape = read_vertices(config.obj) if config.obj else trefoil(rng, config.points)
    shape = rng.permutation(shape)[: config.points]
    shape = shape - shape.mean(axis=0)
    y = jnp.asarray(shape / np.sqrt(np.square(shape).sum(axis=1).mean()), jnp.float32)
    x = jnp.asarray(ball(rng, len(y)), jnp.float32)
    device, precision = jax.devices()[0].device_kind, jnp.result_type(float)
    print(f"device: {device} ({jax.default_backend()}); precision: {precision}")

    clouds, unconverged = [np.asarray(x)], 0
    for _ in (bar := trange(config.stages, unit="stage")):
        x, (losses, failed) = flow(x, y, config.epsilon, config.step_size, jnp.arange(config.steps))
        clouds.append(np.asarray(x))
        unconverged += int(failed.sum())
        bar.set_postfix(divergence=f"{losses[-1]:.2e}", unconverged=unconverged)
    draw(clouds, config.steps, config.output)
    print(f"written to {config.output}")


if __name__ == "__main__":
    main(tyro.cli(Config))
