"""Pairs of distributions whose W1 distance and potential are known.

The construction is that of Korotin, Kolesov and Burnaev, "Kantorovich Strikes Back!" (NeurIPS 2022,
arXiv:2206.07767): q is uniform on a cube, the potential is the minimum of N cones, and p is q moved
along the rays of that potential. As the potential falls with slope one on each ray, the way that
each point moves is optimal, and W1(p, q) is the mean distance moved.
"""

import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float


HALF_WIDTH = 2.5  # q is uniform on [-2.5, 2.5]^D
EXPONENT = 8  # of the map on each ray
# The offset of a cone that is the least nowhere: it pads a pair to more cones.
ABSENT = 1e6


class Funnels(NamedTuple):
    """The potential u(x) = min_n |x - a_n| + b_n, of slope one."""

    centres: Float[Array, "n d"]
    offsets: Float[Array, " n"]


class Ray(NamedTuple):
    """The piece of a ray of the potential on which a point lies, for each point."""

    low: Float[Array, "b d"]
    direction: Float[Array, "b d"]  # from the centre to the point
    distance: Float[Array, " b"]  # of the point from the centre
    length: Float[Array, " b"]  # of the ray


def draw(dim: int, count: int, seed: int) -> Funnels:
    """Funnels of the published law: uniform centres, normal offsets."""
    rng = np.random.default_rng((seed, dim, count))
    centres = rng.uniform(-HALF_WIDTH, HALF_WIDTH, (count, dim))
    offsets = 0.1 * rng.normal(size=count)
    return Funnels(jnp.asarray(centres, jnp.float32), jnp.asarray(offsets, jnp.float32))


def load(path: pathlib.Path, dim: int, count: int) -> Funnels:
    """Funnels from a file of arrays `D{dim}_N{count}_centers` and `..._offsets`.

    **Raises:** `ValueError` if the file does not hold this pair, or not of these shapes.
    """
    with np.load(path) as file:
        try:
            centres = file[f"D{dim}_N{count}_centers"]
            offsets = file[f"D{dim}_N{count}_offsets"]
        except KeyError as error:
            raise ValueError(f"`funnels` holds no pair of {dim=}, {count=}: {path}") from error
    if centres.shape != (count, dim) or offsets.shape != (count,):
        raise ValueError(f"`funnels` holds wrong shapes: {centres.shape}, {offsets.shape}: {path}")
    return Funnels(jnp.asarray(centres, jnp.float32), jnp.asarray(offsets, jnp.float32))


def stacked(pairs: list[Funnels]) -> Funnels:
    """Pairs of one dimension along a first axis, padded with cones that are the least nowhere."""
    most = max(len(pair.offsets) for pair in pairs)

    def padded(pair: Funnels) -> Funnels:
        rest = most - len(pair.offsets)
        return Funnels(
            jnp.pad(pair.centres, ((0, rest), (0, 0))),
            jnp.pad(pair.offsets, (0, rest), constant_values=ABSENT),
        )

    return jax.tree.map(lambda *arrays: jnp.stack(arrays), *map(padded, pairs))


def uniform(key: Array, size: int, dim: int) -> Float[Array, "size dim"]:
    """Samples of q."""
    return jr.uniform(key, (size, dim), jnp.float32, -HALF_WIDTH, HALF_WIDTH)


def _distances(funnels: Funnels, x: Float[Array, "b d"]) -> Float[Array, "b n"]:
    if x.shape[1] >= 8:
        # Many times faster, and exact enough where no point is near a centre.
        norms = jnp.sum(x**2, axis=1)[:, None] + jnp.sum(funnels.centres**2, axis=1)[None, :]
        products = jnp.dot(x, funnels.centres.T, precision=jax.lax.Precision.HIGHEST)
        return jnp.sqrt(jnp.maximum(norms - 2 * products, 0))
    return jnp.linalg.norm(x[:, None, :] - funnels.centres[None, :, :], axis=-1)


def rays(funnels: Funnels, x: Float[Array, "b d"]) -> Ray:
    """The ray of each point: from the centre of its cone to the cube's face or the next cone."""
    distances = _distances(funnels, x)
    values = distances + funnels.offsets[None, :]
    nearest = jnp.argmin(values, axis=1)
    low = funnels.centres[nearest]
    distance = jnp.linalg.norm(x - low, axis=1)
    direction = (x - low) / jnp.maximum(distance, 1e-30)[:, None]

    speed = jnp.where(direction == 0, 1, direction)
    to_face = jnp.where(direction == 0, jnp.inf, (jnp.sign(speed) * HALF_WIDTH - x) / speed)
    # Where u(x) + r meets cone m, |x + r v - a_m| + b_m: a linear equation, once squared.
    height = jnp.min(values, axis=1)[:, None] - funnels.offsets[None, :]
    products = jnp.einsum(
        "bd,nd->bn", direction, funnels.centres, precision=jax.lax.Precision.HIGHEST
    )
    slope = height - (jnp.sum(x * direction, axis=1)[:, None] - products)
    root = 0.5 * (distances**2 - height**2) / jnp.where(slope == 0, 1, slope)
    other = jnp.arange(len(funnels.offsets))[None, :] != nearest[:, None]
    meets = other & (slope != 0) & (root > 0) & (root > -height)
    to_cone = jnp.where(meets, root, jnp.inf)
    further = jnp.minimum(jnp.min(to_face, axis=1), jnp.min(to_cone, axis=1))
    return Ray(low, direction, distance, distance + further)


def moved(funnels: Funnels, x: Float[Array, "b d"]) -> Float[Array, "b d"]:
    """Samples of p, from those of q: each moves towards its centre, in order, along its ray."""
    ray = rays(funnels, x)
    share = ray.distance / jnp.maximum(ray.length, 1e-30)
    return ray.low + (share**EXPONENT * ray.length)[:, None] * ray.direction


def best_gradient(funnels: Funnels, x: Float[Array, "b d"]) -> Float[Array, "b d"]:
    """The gradient of the best critic, -u, by direct differences: p lies close to the centres."""

    def at(point: Float[Array, " d"]) -> Float[Array, " d"]:
        away = point[None, :] - funnels.centres
        distances = jnp.linalg.norm(away, axis=1)
        nearest = jnp.argmin(distances + funnels.offsets)
        return -away[nearest] / jnp.maximum(distances[nearest], 1e-30)

    return jax.lax.map(at, x, batch_size=256)
