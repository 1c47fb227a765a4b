"""Gives a photograph the colours of another, and the other its own, by one transport plan.

    python examples/color_transfer.py              # all pixels of both
    python examples/color_transfer.py --every 4    # one of sixteen

The colours of a photograph are a measure on the unit cube: pixels of one colour are one point of
that much mass. The plan between two such measures is streamed, never held, and is solved for a few
thousand cells of colours first. Its entropic map sends each colour to the mean of where its mass
goes. Drawn into one picture, before and after. Needs `otjax[examples]`.
"""

import dataclasses
import math
import sys
import time
from pathlib import Path
from typing import NoReturn

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from matplotlib.figure import Figure
from sklearn.datasets import load_sample_image

import otjax


@dataclasses.dataclass(frozen=True)
class Config:
    """Two photographs of scikit-learn's exchange their colours."""

    first: str = "china.jpg"
    second: str = "flower.jpg"
    every: int = 1  # take every such row and column of pixels only
    epsilon: float = 0.002  # in squared distance of colours, whose coordinates are from 0 to 1
    tolerance: float = 1e-2  # share of the mass that may be at wrong colours
    cells: int = 2048  # of colours, solved for first
    output: Path = Path("outputs/color_transfer/colors.png")


def fail(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


def load(name: str, every: int) -> np.ndarray:
    if name not in ("china.jpg", "flower.jpg"):
        fail(f"--first and --second must be china.jpg or flower.jpg, got {name}.")
    return load_sample_image(name)[::every, ::every]


def colours(image: np.ndarray) -> tuple[jax.Array, jax.Array, np.ndarray]:
    """The different colours, their shares of the pixels, and which one each pixel has."""
    values, places, counts = np.unique(
        image.reshape(-1, 3), axis=0, return_inverse=True, return_counts=True
    )
    points = jnp.asarray(values / 255, jnp.float32)
    return points, jnp.asarray(counts / counts.sum(), jnp.float32), places.reshape(-1)


@jax.jit
def exchange(x, y, a, b, epsilon, solver):
    """The colours of each where the plan sends them, and how the solve ended."""
    cloud = otjax.PointCloud(x, y, engine=otjax.Streamed())
    problem = otjax.EntropicProblem(cloud, a, b, epsilon=epsilon)
    solution = otjax.solve(problem, solver, throw=False)
    return solution.transport(x), solution.T.transport(y), solution.stats, solution.result


def draw(panels: dict[str, np.ndarray], output: Path) -> None:
    figure = Figure(figsize=(9, 6.4), layout="tight")
    for axis, (title, image) in zip(figure.subplots(2, 2).flat, panels.items(), strict=True):
        axis.imshow(np.clip(image, 0, 1))
        axis.set_title(title)
        axis.axis("off")
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=120)


def main(config: Config) -> None:
    if config.every < 1:
        fail(f"--every must be at least 1, got {config.every}.")
    if config.cells < 2:
        fail(f"--cells must be at least 2, got {config.cells}.")
    if not (0 < config.epsilon < math.inf and 0 < config.tolerance < math.inf):
        fail("--epsilon and --tolerance must be positive and finite.")
    images = [load(name, config.every) for name in (config.first, config.second)]
    (x, a, x_places), (y, b, y_places) = (colours(image) for image in images)
    print(f"device: {jax.devices()[0].device_kind}; colours: {len(x)} and {len(y)}")

    solver = otjax.CoarseToFine(otjax.Sinkhorn(tolerance=config.tolerance), cells=config.cells)
    start = time.perf_counter()
    x_new, y_new, stats, result = jax.block_until_ready(
        exchange(x, y, a, b, config.epsilon, solver)
    )
    print(
        f"{time.perf_counter() - start:.1f} s; {stats.num_steps} steps on all colours; marginal "
        f"error {stats.marginal_error:.1e}; {otjax.RESULTS[result] or 'successful'}"
    )
    shapes = [image.shape for image in images]
    draw(
        {
            config.first: images[0] / 255,
            config.second: images[1] / 255,
            f"{config.first}, colours of {config.second}": np.asarray(x_new)[x_places].reshape(
                shapes[0]
            ),
            f"{config.second}, colours of {config.first}": np.asarray(y_new)[y_places].reshape(
                shapes[1]
            ),
        },
        config.output,
    )
    print(f"written to {config.output}")


if __name__ == "__main__":
    main(tyro.cli(Config))
