"""What every distance is, whatever the measures: a metric that respects the space it lives on."""

import dataclasses
import functools as ft
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

import otjax


N, D = 6, 2  # of all measures, so that one program serves all examples


@dataclasses.dataclass
class Distance:
    """A distance, and what happens to its measures when the space is moved."""

    between: Callable[[Any, Any, Any], Any]  # two measures, and the unit of length
    random: Callable[[np.random.Generator], Any]
    move: Callable[[Any, Any, Any], Any]  # scaled, then shifted
    permute: Callable[[Any, Any], Any]
    pad: Callable[[Any], Any]


def points(distance, d):
    shape = (N,) if d is None else (N, d)
    shift = lambda v: v if d is None else jnp.full((1, d), v)
    far = jnp.full((2, *shape[1:]), 1e6)

    def random(rng):
        masses = rng.uniform(0.1, 1, N)
        return jnp.asarray(rng.normal(size=shape)), jnp.asarray(masses / masses.sum())

    return Distance(
        lambda m, n, unit: distance(m[0], n[0], m[1], n[1], unit),
        random,
        lambda m, scale, by: (scale * m[0] + shift(by), m[1]),
        lambda m, order: (m[0][order], m[1][order]),
        lambda m: (jnp.concatenate([m[0], far]), jnp.pad(m[1], (0, 2))),
    )


def covariances(rng, *batch):
    root = rng.normal(size=(*batch, D, D))
    return jnp.asarray(root @ np.swapaxes(root, -1, -2))


def mixture(m, n):
    return otjax.mixture_wasserstein(*m, *n, gap=1e-10)


def random_mixture(rng):
    weights = rng.uniform(0.1, 1, 3)
    means = jnp.asarray(rng.normal(size=(3, D)))
    return jnp.asarray(weights / weights.sum()), means, covariances(rng, 3)


KEY = jax.random.key(0)
DISTANCES = {
    "line, p = 1": points(lambda x, y, a, b, _: otjax.wasserstein_1d(x, y, a, b, p=1), None),
    "line, p = 3": points(lambda x, y, a, b, _: otjax.wasserstein_1d(x, y, a, b, p=3), None),
    "line, solution": points(
        lambda x, y, a, b, _: jnp.sqrt(jnp.abs(otjax.transport_1d(x, y, a, b).value)), None
    ),
    "circle": points(
        lambda x, y, a, b, unit: otjax.wasserstein_circle(x, y, a, b, period=unit), None
    ),
    "sliced": points(
        lambda x, y, a, b, _: otjax.sliced_wasserstein(
            x, y, a, b, p=1.5, num_projections=7, key=KEY
        ),
        D,
    ),
    "gaussian": Distance(
        lambda m, n, _: otjax.bures_wasserstein(*m, *n),
        lambda rng: (jnp.asarray(rng.normal(size=D)), covariances(rng)),
        lambda m, scale, by: (scale * m[0] + by, scale**2 * m[1]),
        lambda m, _: m,
        lambda m: m,
    ),
    "mixture": Distance(
        lambda m, n, _: mixture(m, n),
        random_mixture,
        lambda m, scale, by: (m[0], scale * m[1] + by, scale**2 * m[2]),
        lambda m, _: tuple(part[jnp.array([2, 0, 1])] for part in m),
        lambda m: (
            jnp.pad(m[0], (0, 1)),
            jnp.concatenate([m[1], m[1][:1] + 9]),
            jnp.concatenate([m[2], m[2][:1]]),
        ),
    ),
}
close = ft.partial(np.testing.assert_allclose, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("name", DISTANCES)
@given(st.integers(0, 2**31), st.floats(-3, 3), st.floats(-50, 50))
def test_a_distance(name, seed, log_scale, shift):
    distance, rng = DISTANCES[name], np.random.default_rng(seed)
    first, second, third = (distance.random(rng) for _ in range(3))
    one = jnp.ones(())
    between = lambda m, n: distance.between(m, n, one)
    value = between(first, second)
    assert value > 0
    assert between(first, first) <= 1e-7
    close(between(second, first), value)
    assert between(first, third) <= value + between(second, third) + 1e-9
    scale = jnp.asarray(10.0**log_scale)
    moved = [distance.move(m, scale, scale * shift) for m in (first, second)]
    close(distance.between(*moved, scale), scale * value, atol=1e-12 * scale)
    order = jnp.asarray(rng.permutation(N))
    close(between(distance.permute(first, order), second), value)
    close(between(distance.pad(first), second), value)
