"""Laguerre cells: the part of a square that each of some points is given, all of one area.

    python examples/laguerre_cells.py

The square is known by its samples alone; the cells are found by stochastic ascent. One picture.
Needs `otjax[examples]`.
"""

import dataclasses
import sys
from pathlib import Path
from typing import NoReturn

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import tyro
from matplotlib.figure import Figure

import otjax


@dataclasses.dataclass(frozen=True)
class Config:
    """Cells of equal area of the unit square, around points that crowd in a corner."""

    points: int = 40
    steps: int = 2000  # of the ascent
    pixels: int = 400  # of the picture's sides
    seed: int = 0
    output: Path = Path("outputs/laguerre_cells/cells.png")


def fail(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


def square(key: jax.Array) -> jax.Array:
    return jr.uniform(key, (512, 2))


def draw(pictures: dict[str, np.ndarray], y: np.ndarray, ends: np.ndarray, path: Path) -> None:
    figure = Figure(figsize=(5 * len(pictures), 5), layout="tight")
    axes = figure.subplots(1, len(pictures), squeeze=False)[0]
    shades = np.random.default_rng(0).permutation(len(y))
    for axis, (title, cells) in zip(axes, pictures.items(), strict=True):
        axis.imshow(
            shades[cells], origin="lower", extent=(0, 1, 0, 1), cmap="Pastel1", aspect="equal"
        )
        axis.scatter(*y.T, s=10, color="black")
        axis.set(title=title, xlim=(0, 1), ylim=(0, 1))
        axis.axis("off")
    # On the right: from each point to the middle of its cell.
    axes[-1].plot(*np.stack([y, ends]).transpose(2, 0, 1), color="black", linewidth=0.7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def main(config: Config) -> None:
    for name, least in (("points", 2), ("steps", 1), ("pixels", 2), ("seed", 0)):
        if getattr(config, name) < least:
            fail(f"--{name} must be at least {least}, got {getattr(config, name)}.")
    key_points, key_ascent = jr.split(jr.key(config.seed))
    y = jr.uniform(key_points, (config.points, 2)) ** 2
    ascent = otjax.StochasticAscent(max_steps=config.steps)
    found = otjax.semidiscrete(square, y, key=key_ascent, ascent=ascent, throw=False)
    line = (jnp.arange(config.pixels) + 0.5) / config.pixels
    pixels = jnp.stack(jnp.meshgrid(line, line), axis=-1).reshape(-1, 2)
    shape = config.pixels, config.pixels
    plain, _ = otjax.nearest(pixels, y, jnp.zeros(len(y)))
    cells = found.assign(pixels)
    sizes = jnp.zeros(len(y)).at[cells].add(1.0)
    middles = jnp.zeros_like(y).at[cells].add(pixels) / jnp.maximum(sizes, 1)[:, None]
    pictures = {
        "nearest point": np.asarray(plain).reshape(shape),
        "cells of equal area": np.asarray(cells).reshape(shape),
    }
    draw(pictures, np.asarray(y), np.asarray(middles), config.output)
    print(f"cost={found.value:.5f} +- {found.value_error:.5f}, error={found.error:.3f}")
    print(otjax.RESULTS[found.result] or "successful")
    print(f"written to {config.output}")


if __name__ == "__main__":
    main(tyro.cli(Config))
