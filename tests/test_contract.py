"""The contract of a geometry, and the check that tells who breaks it."""

import dataclasses
from typing import ClassVar

import equinox as eqx
import helpers
import jax
import jax.numpy as jnp
import pytest

import otjax
from otjax.testing import check_geometry


class Wrapped(otjax.AbstractGeometry):
    """Another geometry, member by member."""

    inner: otjax.AbstractGeometry

    @property
    def shape(self):
        return self.inner.shape

    @property
    def dtype(self):
        return self.inner.dtype

    @property
    def T(self):
        return type(self)(self.inner.T)

    def prepare(self, a, b):
        prepared = self.inner.prepare(a, b)
        return prepared._replace(geometry=type(self)(prepared.geometry))

    def softmin(self, h, epsilon):
        return self.inner.softmin(h, epsilon)

    def plan(self, f, g, epsilon, dtype=None):
        return self.inner.plan(f, g, epsilon, dtype)


@pytest.mark.parametrize("dtype", [pytest.param(jnp.float32, marks=pytest.mark.slow), jnp.float64])
@pytest.mark.parametrize("engine", helpers.ENGINES)
def test_our_geometries_keep_it(engine, dtype):
    x, y = helpers.points(dtype=dtype)
    check_geometry(helpers.ENGINES[engine](x, y, otjax.SqEuclidean()))


@pytest.mark.slow
@pytest.mark.parametrize(
    "cost",
    ["Euclidean", "callable", "learnable"],
)
def test_engines_keep_it_for_costs_without_factors(cost):
    x, y = helpers.points()
    for engine in ("streamed", "naive"):
        check_geometry(helpers.ENGINES[engine](x, y, helpers.COSTS[cost]()))


def test_a_wrapper_and_forbidden_pairs_keep_it():
    x, y = helpers.points()
    matrix = helpers.cost_matrix(x, y, helpers.callable_cost)
    check_geometry(otjax.CostMatrix(matrix.at[2, 3].set(jnp.inf)))
    check_geometry(Wrapped(otjax.PointCloud(x, y)))


class _NotTransposed(Wrapped):
    @property
    def T(self):
        return self


class _SameBothWays(Wrapped):
    @property
    def T(self):
        n, m = self.shape
        return type(self)(otjax.CostMatrix(jnp.ones((m, n), self.dtype)))


class _SoftminOfAnother(Wrapped):
    def softmin(self, h, epsilon):
        return self.inner.softmin(h, 1.1 * epsilon)


class _NanForAbsentPoints(Wrapped):
    def softmin(self, h, epsilon):
        return self.inner.softmin(h, epsilon) + 0 * jnp.sum(h)


class _PlanIgnoresDtype(Wrapped):
    def plan(self, f, g, epsilon, dtype=None):
        return self.inner.plan(f, g, epsilon)


class _PlanWithoutPotential(Wrapped):
    def plan(self, f, g, epsilon, dtype=None):
        return self.inner.plan(0 * f, g, epsilon, dtype)


class _NoDerivative(Wrapped):
    def softmin(self, h, epsilon):
        return jax.lax.stop_gradient(self.inner.softmin(h, epsilon))


class _OtherMean(Wrapped):
    def prepare(self, a, b):
        return super().prepare(a, b)._replace(mean=jnp.asarray(1.0, self.dtype))


class _OtherLeast(Wrapped):
    def prepare(self, a, b):
        return super().prepare(a, b)._replace(least=jnp.asarray(-1.0, self.dtype))


class _AbsentPointsCount(Wrapped):
    def prepare(self, a, b):
        mean = self.inner.prepare(jnp.ones_like(a), jnp.ones_like(b)).mean
        prepared = super().prepare(a, b)
        alive = jnp.all(a > 0)
        return prepared._replace(mean=jnp.where(alive, prepared.mean, mean))


@pytest.mark.parametrize(
    "broken, message",
    [
        (_NotTransposed, "`T`"),
        (_SameBothWays, "of `T`"),
        (_SoftminOfAnother, "`softmin`"),
        (_NanForAbsentPoints, "-inf"),
        (_PlanIgnoresDtype, "`dtype`"),
        (_PlanWithoutPotential, "`plan`"),
        (_NoDerivative, "derivative"),
        (_OtherMean, "`mean`"),
        (_OtherLeast, "`least`"),
        (_AbsentPointsCount, "mass zero"),
    ],
)
def test_the_check_names_what_is_broken(broken, message):
    x, y = helpers.points()
    with pytest.raises(AssertionError, match=message):
        check_geometry(broken(otjax.PointCloud(x, y)))


def test_an_engine_is_asked_and_its_derivatives_are_made_of_its_values():
    asked = []

    class Noting(helpers.NaiveEngine):
        holds: ClassVar[bool] = False

        def apply(self, pairs, f, g, epsilon, columns):
            asked.append(columns.shape[1])
            return super().apply(pairs, f, g, epsilon, columns)

    x, y = helpers.points()

    def mass(x):
        plan = otjax.PointCloud(x, y, engine=Noting()).plan(x[:, 0], y[:, 0], jnp.array(1.0))
        return jnp.sum(plan.mv(y[:, 1]))

    jax.grad(mass)(x)
    # One application: the value, what the potential's tangent multiplies, and a column for each
    # factor of squared distances.
    assert asked == [2 + helpers.D + 2] * len(asked)


@eqx.filter_jit
def _solved(problem):
    return otjax.solve(problem, tolerance=1e-10, throw=False)


def test_a_wrapped_geometry_solves_and_transports_nothing_new():
    problem = helpers.make_problem()
    wrapped = otjax.EntropicProblem(
        Wrapped(problem.geometry), problem.a, problem.b, epsilon=problem.epsilon
    )
    assert jnp.abs(_solved(wrapped).value - _solved(problem).value) < 1e-12
    with pytest.raises(ValueError, match="PointCloud"):
        _solved(wrapped).transport(helpers.points()[0])


def test_public_members_are_few():
    for contract in (otjax.AbstractGeometry, otjax.AbstractPlan, otjax.AbstractEngine):
        members = {name for name in vars(contract) if not name.startswith("_")}
        members |= {field.name for field in dataclasses.fields(contract)}
        assert len(members) <= 6, (contract, members)
