"""What a solve costs, counted in passes over the matrix, not in time."""

import collections

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import otjax


COUNTS: collections.Counter[str] = collections.Counter()
# A pass in units of a product of double precision, on a held matrix.
PRICES = {"softmin": 8.0, "plan": 4.0, "product": 1.0, "coarse product": 0.5}


def _note(kind: str) -> None:
    jax.debug.callback(lambda: COUNTS.update([kind]))


class CountedPlan(otjax.AbstractPlan):
    inner: otjax.AbstractPlan
    kind: str = eqx.field(static=True)

    def mv(self, vectors):
        _note(self.kind)
        return self.inner.mv(vectors)

    def squared_mv(self, vector):
        _note(self.kind)
        return self.inner.squared_mv(vector)

    def as_matrix(self):
        return self.inner.as_matrix()

    @property
    def T(self):
        return CountedPlan(self.inner.T, self.kind)


class Counted(otjax.AbstractGeometry):
    inner: otjax.AbstractGeometry

    @property
    def shape(self):
        return self.inner.shape

    @property
    def dtype(self):
        return self.inner.dtype

    @property
    def T(self):
        return Counted(self.inner.T)

    def prepare(self, a, b):
        prepared = self.inner.prepare(a, b)
        return prepared._replace(geometry=Counted(prepared.geometry))

    def softmin(self, h, epsilon):
        _note("softmin")
        return self.inner.softmin(h, epsilon)

    def plan(self, f, g, epsilon, dtype=None):
        _note("plan")
        kind = "coarse product" if dtype == jnp.float32 else "product"
        return CountedPlan(self.inner.plan(f, g, epsilon, dtype), kind)


@eqx.filter_jit
def _solve(x, y, epsilon, tolerance):
    problem = otjax.EntropicProblem(Counted(otjax.PointCloud(x, y)), epsilon=epsilon)
    solution = otjax.solve(problem, tolerance=tolerance, throw=False)
    return solution.result == otjax.RESULTS.successful


def _price(x, y, epsilon, tolerance):
    COUNTS.clear()
    assert _solve(x, y, epsilon, jnp.asarray(tolerance))
    jax.effects_barrier()
    return sum(PRICES[kind] * count for kind, count in COUNTS.items())


def _clouds(kind, d):
    rng = np.random.default_rng(d)
    if kind == "plain":
        return rng.normal(size=(128, d)), 0.5 + 0.8 * rng.normal(size=(128, d))
    centres = 2 * rng.normal(size=(9, d))
    x, y = (centres[rng.integers(*some, 128)] for some in ((0, 4), (4, 9)))
    return x + 0.3 * rng.normal(size=x.shape), y + 0.3 * rng.normal(size=y.shape)


@pytest.mark.parametrize("d", [2, 64])
def test_asking_for_less_costs_no_more(d):
    for kind in ("plain", "mixtures"):
        x, y = _clouds(kind, d)
        mean = np.mean(np.sum(np.square(x[:, None] - y[None]), axis=2))
        for share in (0.05, 0.01, 0.002):
            less, more = (
                _price(jnp.asarray(x), jnp.asarray(y), jnp.asarray(share * mean), tolerance)
                for tolerance in (1e-6, 1e-9)
            )
            assert less <= 1.1 * more, (kind, share)


def test_a_held_solution_makes_nothing_anew():
    x, y = _clouds("plain", 2)
    problem = otjax.EntropicProblem(Counted(otjax.PointCloud(x, y)), epsilon=0.5)
    solution = otjax.solve(problem)
    assert isinstance(solution.prepared.geometry, Counted)
    # The matrix of costs lives in the solution: what is made of it costs a plan and its products.
    COUNTS.clear()
    jax.block_until_ready(solution.marginals)
    jax.effects_barrier()
    assert COUNTS == {"plan": 1, "product": 2}
