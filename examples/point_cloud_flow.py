"""Moves a ball of points onto a shape by gradient descent on the Sinkhorn divergence.

    python examples/point_cloud_flow.py                    # onto a trefoil knot
    python examples/point_cloud_flow.py --obj bunny.obj    # onto the vertices of a mesh
    python examples/point_cloud_flow.py --start spot.obj --obj bunny.obj    # from one to another

Plain JAX, drawn into one picture, and as an animation beside it, `.gif`. Needs `otjax[examples]`.
"""

import dataclasses
import math
import sys
from pathlib import Path
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from matplotlib.animation import FuncAnimation, PillowWriter
from matplotlib.figure import Figure
from tqdm import trange

import otjax


@dataclasses.dataclass(frozen=True)
class Config:
    """A ball of points flows onto a shape, down the gradient of the Sinkhorn divergence."""

    start: Path | None = None  # such a file to start from, instead of the ball
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


def read_vertices(path: Path, option: str) -> np.ndarray:
    try:
        lines = path.read_text().splitlines()
        rows = [line.split()[1:4] for line in lines if line.startswith("v ")]
        vertices = np.array(rows, dtype=float).reshape(-1, 3)
    except (OSError, ValueError) as error:
        fail(f"{option}: {path} cannot be read as a Wavefront .obj file: {error}.")
    if not (np.isfinite(vertices).all() and len(np.unique(vertices, axis=0)) > 1):
        fail(f"{option}: {path} must hold two distinct vertices at least, as lines `v x y z`.")
    return vertices


def scaled(points: np.ndarray) -> np.ndarray:
    """The points about their mean, with a mean squared radius of 1."""
    points = points - points.mean(axis=0)
    return points / np.sqrt(np.square(points).sum(axis=1).mean())


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
    """Takes a gradient step for each of `steps`; also the loss, the failed solves and the points of
    each."""

    def loss_fn(x):
        return otjax.sinkhorn_divergence(x, y, epsilon=epsilon, has_aux=True)

    def step(x, _):
        (loss, solutions), gradient = jax.value_and_grad(loss_fn, has_aux=True)(x)
        failed = jnp.stack([s.result != otjax.RESULTS.successful for s in solutions])
        # A point of mass 1/n feels 1/n of the force; the half undoes the square in the cost.
        x = x - step_size * 0.5 * x.shape[0] * gradient
        return x, (loss, jnp.sum(failed), x)

    return jax.lax.scan(step, x, steps)


def draw(clouds: list[np.ndarray], steps: int, output: Path) -> None:
    """Every so many of the clouds in a row."""
    shown = range(0, len(clouds), steps)
    figure = Figure(figsize=(2.5 * len(shown), 2.8))
    for place, index in enumerate(shown):
        axis = figure.add_subplot(1, len(shown), place + 1, projection="3d", azim=-75, elev=10)
        draw_cloud(axis, clouds, index)
    figure.subplots_adjust(left=0, right=1, bottom=0, top=0.9, wspace=0)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=120)


def draw_cloud(axis: Any, clouds: list[np.ndarray], index: int) -> None:
    """A cloud, each point in the colour of the height where it began."""
    # Height is the second coordinate, as meshes have it; the picture's is the third.
    x, height, depth = clouds[index].T
    axis.scatter(x, -depth, height, c=clouds[0][:, 1], s=2)
    limits = (-1.6, 1.6)
    axis.set(xlim=limits, ylim=limits, zlim=limits, title=f"step {index}")
    axis.set_box_aspect((1, 1, 1), zoom=1.6)
    axis.set_axis_off()


def animate(clouds: list[np.ndarray], output: Path) -> None:
    """The clouds one after the other, and a while of the last."""
    figure = Figure(figsize=(4, 4.2))
    axis = figure.add_subplot(projection="3d", azim=-75, elev=10)

    def frame(index: int) -> None:
        axis.clear()
        draw_cloud(axis, clouds, index)

    frames = [*range(len(clouds)), *[len(clouds) - 1] * 10]
    FuncAnimation(figure, frame, frames=frames).save(output, PillowWriter(fps=10), dpi=80)


def main(config: Config) -> None:
    for name, least in (("points", 2), ("stages", 1), ("steps", 1), ("seed", 0)):
        if getattr(config, name) < least:
            fail(f"--{name} must be at least {least}, got {getattr(config, name)}.")
    if not (0 < config.step_size < math.inf and 0 < config.epsilon < math.inf):
        fail("--step-size and --epsilon must be positive and finite.")
    rng = np.random.default_rng(config.seed)
    shape = read_vertices(config.obj, "--obj") if config.obj else trefoil(rng, config.points)
    y = jnp.asarray(scaled(rng.permutation(shape)[: config.points]), jnp.float32)
    if config.start:
        vertices = read_vertices(config.start, "--start")
        first = scaled(rng.permutation(vertices)[: config.points])
    else:
        first = ball(rng, len(y))
    x = jnp.asarray(first, jnp.float32)
    device, precision = jax.devices()[0].device_kind, jnp.result_type(float)
    print(f"device: {device} ({jax.default_backend()}); precision: {precision}")

    clouds, unconverged = [np.asarray(x)], 0
    for _ in (bar := trange(config.stages, unit="stage")):
        steps = jnp.arange(config.steps)
        x, (losses, failed, way) = flow(x, y, config.epsilon, config.step_size, steps)
        clouds.extend(np.asarray(way))
        unconverged += int(failed.sum())
        bar.set_postfix(divergence=f"{losses[-1]:.2e}", unconverged=unconverged)
    draw(clouds, config.steps, config.output)
    animation = config.output.with_suffix(".gif")
    animate(clouds, animation)
    print(f"written to {config.output} and {animation}")


if __name__ == "__main__":
    main(tyro.cli(Config))
