"""Barycentres of handwritten digits: pixel means, entropic, and debiased.

    python examples/barycenters.py

The upper rows average many images of one digit; the lower one goes from one digit to another. Plain
JAX, drawn into one picture. Needs `otjax[examples]`.
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
from jaxtyping import Array, Float
from matplotlib.figure import Figure
from sklearn.datasets import load_digits

import otjax


SIDE = 8  # pixels


@dataclasses.dataclass(frozen=True)
class Config:
    """Barycentres of the digits of scikit-learn, on the grid of their pixels."""

    images: int = 20  # of each digit that are averaged
    digits: int = 10  # how many kinds are averaged
    times: int = 7  # of the way from one digit to another
    epsilon: float = 0.3  # in squared pixels
    tolerance: float = 1e-3
    output: Path = Path("outputs/barycenters/barycenters.png")


def fail(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


def histograms() -> tuple[np.ndarray, np.ndarray]:
    """Images as masses on their pixels, and what they show."""
    digits = load_digits()
    masses = digits.images.reshape(-1, SIDE**2).astype(np.float32)
    return masses / masses.sum(axis=1, keepdims=True), digits.target


@jax.jit
def entropic(masses: Float[Array, "k n"], weights: Float[Array, " k"], epsilon, tolerance):
    return barycenter(masses, weights, epsilon, tolerance, otjax.Entropic())


@jax.jit
def debiased(masses: Float[Array, "k n"], weights: Float[Array, " k"], epsilon, tolerance):
    return barycenter(masses, weights, epsilon, tolerance, otjax.Debiased())


def barycenter(masses, weights, epsilon, tolerance, objective) -> otjax.Barycenter:
    rows, columns = jnp.meshgrid(jnp.arange(8.0), jnp.arange(8.0), indexing="ij")
    pixels = jnp.stack([rows.ravel(), columns.ravel()], axis=1)
    return otjax.barycenter(
        otjax.PointCloud(pixels, pixels),
        masses,
        weights,
        epsilon=epsilon,
        objective=objective,
        tolerance=tolerance,
        throw=False,
    )


def draw(rows: dict[str, list[np.ndarray]], path: Path) -> None:
    width = max(len(images) for images in rows.values())
    figure = Figure(figsize=(1.1 * width + 1, 1.2 * len(rows)), layout="tight")
    axes = figure.subplots(len(rows), width, squeeze=False)
    for line, (title, images) in zip(axes, rows.items(), strict=True):
        for axis in line:
            axis.axis("off")
        for axis, image in zip(line, images, strict=False):
            axis.imshow(np.asarray(image).reshape(SIDE, SIDE), cmap="gray_r")
        line[0].set_title(title, loc="left", fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def main(config: Config) -> None:
    for name, most in (("images", 170), ("digits", 10), ("times", 100)):
        if not 1 <= getattr(config, name) <= most:
            fail(f"--{name} must be from 1 to {most}, got {getattr(config, name)}.")
    for name in ("epsilon", "tolerance"):
        if not 0 < getattr(config, name) < math.inf:
            fail(f"--{name} must be positive and finite, got {getattr(config, name)}.")
    masses, shows = histograms()
    numbers = jnp.float32(config.epsilon), jnp.float32(config.tolerance)
    rows: dict[str, list[np.ndarray]] = {"means of pixels": [], "entropic": [], "debiased": []}
    unconverged = 0
    for digit in range(config.digits):
        some = jnp.asarray(masses[shows == digit][: config.images])
        weights = jnp.ones(len(some), jnp.float32)
        rows["means of pixels"].append(np.asarray(jnp.mean(some, axis=0)))
        for title, solve in (("entropic", entropic), ("debiased", debiased)):
            found = solve(some, weights, *numbers)
            rows[title].append(np.asarray(found.masses))
            unconverged += int(found.result != otjax.RESULTS.successful)
    pair = jnp.asarray(np.stack([masses[shows == digit][0] for digit in (1, 0)]))
    rows["debiased, on the way from 1 to 0"] = []
    for time in np.linspace(0, 1, config.times, dtype=np.float32):
        found = debiased(pair, jnp.stack([1 - time, time]), *numbers)
        rows["debiased, on the way from 1 to 0"].append(np.asarray(found.masses))
        unconverged += int(found.result != otjax.RESULTS.successful)
    draw(rows, config.output)
    print(f"unconverged={unconverged}")
    print(f"written to {config.output}")


if __name__ == "__main__":
    main(tyro.cli(Config))
