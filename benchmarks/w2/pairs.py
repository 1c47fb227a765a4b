"""Pairs of distributions whose optimal map for the squared distance is known.

The first is a mixture of three Gaussians; the second its image under the gradient of a convex
function, which is the optimal map (Korotin et al., "Do Neural Optimal Transport Solvers Work?",
NeurIPS 2021, arXiv:2106.01954). The function is that of the published pairs, read from files of
their parameters, or one drawn here. Or both are Gaussians, whose map is closed.
"""

import math
import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float

import otjax


WIDTH = 0.4  # of a component, before all is scaled to a mean variance of one
SITES = 10  # of a pair that is drawn
STRONG_CONVEXITY = 0.01  # of each published network
MOMENTS = 2**18  # samples that the image's mean and variance are taken from


class Mixture(NamedTuple):
    """Gaussians of equal weight, by their centres and a factor of their covariances."""

    centres: Float[Array, "k d"]
    factors: Float[Array, "k d d"]


class Network(NamedTuple):
    """Layers of quadratic functions of the point, mixed with positive weights: convex."""

    factors: tuple[Float[Array, "out d"], ...]
    weights: tuple[Float[Array, "out d"], ...]
    biases: tuple[Float[Array, " out"], ...]
    mixed: tuple[Float[Array, "out in"], ...]
    final: Float[Array, " in"]


class Sum(NamedTuple):
    """The gradient of a sum of networks."""

    networks: tuple[Network, ...]

    def __call__(self, x: Float[Array, "n d"]) -> Float[Array, "n d"]:
        slopes = [jax.vmap(jax.grad(value, 1), (None, 0))(one, x) for one in self.networks]
        return jnp.sum(jnp.stack(slopes), axis=0)


class Towards(NamedTuple):
    """The gradient of a smooth maximum of planes, and of a multiple of the squared norm."""

    sites: otjax.ConvexMap
    curvature: float

    def __call__(self, x: Float[Array, "n d"]) -> Float[Array, "n d"]:
        return self.sites(x) + self.curvature * x


class Standardised(NamedTuple):
    """A gradient, shifted and scaled: still that of a convex function."""

    slope: Sum | Towards
    mean: Float[Array, " d"]
    scale: Float[Array, ""]

    def __call__(self, x: Float[Array, "n d"]) -> Float[Array, "n d"]:
        return (self.slope(x) - self.mean[None, :]) / self.scale


class Pair(NamedTuple):
    """Two distributions: `source` as a mixture, and the map that makes the other of it."""

    source: Mixture
    map: Standardised | otjax.AffineMap


def mixture(dim: int) -> Mixture:
    """The published mixture: NumPy's legacy generator with the seed 0, in the published order."""
    rng = np.random.RandomState(0)
    centres = np.stack([rng.permutation(3) - 1.0 for _ in range(dim)], axis=1)
    factors = rng.normal(size=(3, dim, dim)).astype(np.float32).astype(np.float64)
    factors /= np.linalg.norm(factors, axis=2, keepdims=True)
    scale = np.sqrt(2 / 3 + WIDTH**2)
    single = lambda array: jnp.asarray(array, jnp.float32)
    return Mixture(single(centres / scale), single(WIDTH * factors / scale))


def sample(mixture: Mixture, key: Array, size: int) -> Float[Array, "size d"]:
    key_which, key_normal = jr.split(key)
    which = jr.randint(key_which, (size,), 0, len(mixture.centres))
    normal = jr.normal(key_normal, (size, mixture.centres.shape[1]))
    highest = jax.lax.Precision.HIGHEST
    # All components, of which one is taken: no matrix for each sample.
    every = jnp.einsum("kij,nj->nki", mixture.factors, normal, precision=highest)
    return every[jnp.arange(size), which] + mixture.centres[which]


def value(network: Network, x: Float[Array, " d"]) -> Float[Array, ""]:
    """The convex function of one network at a point."""
    dot = lambda matrix, vector: jnp.dot(matrix, vector, precision=jax.lax.Precision.HIGHEST)
    quadratic = [
        jnp.square(dot(factor, x)) + dot(weight, x) + bias
        for factor, weight, bias in zip(
            network.factors, network.weights, network.biases, strict=True
        )
    ]
    hidden = quadratic[0]
    for mixed, added in zip(network.mixed, quadratic[1:], strict=True):
        hidden = jax.nn.celu(dot(mixed, hidden) + added)
    return dot(network.final, hidden) + 0.5 * STRONG_CONVEXITY * jnp.sum(jnp.square(x))


def standardised(source: Mixture, slope: Sum | Towards) -> Pair:
    """The pair of a convex function: its image has a mean of 0 and a mean variance of 1."""
    rng = np.random.RandomState(1)
    which = rng.randint(0, 3, size=MOMENTS)
    normal = rng.standard_normal((MOMENTS, source.centres.shape[1])).astype(np.float32)
    centres, factors = (np.asarray(array) for array in source)
    x = np.einsum("nij,nj->ni", factors[which], normal) + centres[which]
    one_batch = jax.jit(slope.__call__)
    images = np.concatenate([np.asarray(one_batch(part), np.float64) for part in np.split(x, 64)])
    single = lambda array: jnp.asarray(array, jnp.float32)
    scale = np.sqrt(np.mean(np.var(images, axis=0)))
    return Pair(source, Standardised(slope, single(images.mean(0)), single(scale)))


def load(folder: pathlib.Path, dim: int) -> Pair:
    """The published pair, from a file `D{dim}.npz` of the parameters of its two networks.

    **Raises:** `ValueError` if there is none, or of other shapes.
    """
    path = folder / f"D{dim}.npz"
    try:
        with np.load(path) as file:
            arrays = {name: jnp.asarray(file[name]) for name in file.files}
        networks = tuple(
            Network(
                tuple(arrays[f"{v}/quad{i}_factor"] for i in range(3)),
                tuple(arrays[f"{v}/quad{i}_weight"] for i in range(3)),
                tuple(arrays[f"{v}/quad{i}_bias"] for i in range(3)),
                tuple(arrays[f"{v}/convex{i}_weight"] for i in (1, 2)),
                arrays[f"{v}/final_weight"],
            )
            for v in ("v1", "v2")
        )
    except (OSError, KeyError) as error:
        raise ValueError(f"`pairs` holds no pair of {dim=}: {path}") from error
    if networks[0].factors[0].shape[1] != dim:
        raise ValueError(f"`pairs` holds a pair of another dimension: {path}")
    return standardised(mixture(dim), Sum(networks))


def draw(dim: int, seed: int) -> Pair:
    """A pair of the same kind: the same mixture, drawn towards ten random points."""
    rng = np.random.default_rng((seed, dim))
    single = lambda array: jnp.asarray(array, jnp.float32)
    points = single(rng.normal(size=(SITES, dim)))
    # Planes of one height at the origin on average, whose cells all have their share.
    heights = jnp.sum(jnp.square(points), axis=1)
    sites = otjax.ConvexMap(points, heights, epsilon=0.7 * math.sqrt(dim))
    return standardised(mixture(dim), Towards(sites, 0.2))


def gaussians(dim: int, seed: int) -> Pair:
    """Two Gaussians with random covariances, whose map `otjax.gaussian_map` knows."""
    rng = np.random.default_rng((seed, dim))
    factors = rng.normal(size=(2, dim, dim)) / np.sqrt(dim) + 0.5 * np.eye(dim)
    means = rng.normal(size=(2, dim))
    covs = [factor @ factor.T for factor in factors]
    single = lambda array: jnp.asarray(array, jnp.float32)
    source = Mixture(single(means[:1]), single(factors[:1]))
    arrays = (single(array) for array in (means[0], covs[0], means[1], covs[1]))
    return Pair(source, otjax.gaussian_map(*arrays))
