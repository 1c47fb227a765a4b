"""Derivatives of every output with respect to every number, against central differences."""

from typing import Any

import equinox as eqx
import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import COSTS, ENGINES, MARGINALS

import otjax


SOLVER = otjax.Sinkhorn(tolerance=1e-13)
RELATIVE = {"value": 1e-6}
OTHERS_RELATIVE = 1e-5


def make_inputs(marginals: str = "balanced", cost: str = "SqEuclidean", *, zeros=False):
    """Everything that defines a problem, and points to transport, as one tree of numbers."""
    totals = {"balanced": (1.2, 1.2), "unbalanced": (1.3, 0.8)}.get(marginals, (1.3, 1.0))
    new, _ = helpers.points(1, n=4)
    return {
        "points": helpers.points(),
        "masses": helpers.masses(zeros=zeros, totals=totals),
        "epsilon": jnp.array(0.3),
        "rho": jnp.array(0.7),
        "cost": eqx.filter(COSTS[cost](), eqx.is_inexact_array),
        "new points": new,
    }


def make_direction(inputs: Any, marginals: str, seed: int = 7) -> Any:
    """A random direction in which the problem stays valid."""
    rng = np.random.default_rng(seed)
    direction = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), inputs)
    a, b = inputs["masses"]
    move_a, move_b = (0.3 * m * v for m, v in zip((a, b), direction["masses"], strict=True))
    if marginals == "balanced":
        # Equal totals, of which the common one may change.
        move_b = move_b + b * (jnp.sum(move_a) - jnp.sum(move_b)) / jnp.sum(b)
    direction["masses"] = move_a, move_b
    return direction


def solve(inputs, engine, marginals, cost, solver=SOLVER, adjoint=None) -> otjax.Solution:
    cost = eqx.combine(
        inputs["cost"], eqx.filter(COSTS[cost](), eqx.is_inexact_array, inverse=True)
    )
    problem = otjax.EntropicProblem(
        ENGINES[engine](*inputs["points"], cost),
        *inputs["masses"],
        epsilon=inputs["epsilon"],
        marginals=MARGINALS[marginals](inputs["rho"]),
    )
    return otjax.solve(problem, solver, adjoint=adjoint, throw=False)


def _weights(*shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(sum(shape)).normal(size=shape))


def _potentials(solution, new):
    """Of the points that have mass: the others do not exist."""
    f, g = solution.potentials
    u = jnp.where(solution.problem.a > 0, _weights(*f.shape), 0)
    v = jnp.where(solution.problem.b > 0, _weights(*g.shape), 0)
    return jnp.sum(u * f) + jnp.sum(v * g)


def _plan(solution, new):
    n, m = solution.problem.geometry.shape
    u, v = _weights(n), _weights(m)
    return jnp.sum(u * solution.plan.mv(v)) + jnp.sum(v * solution.plan.T.mv(u * u))


def _marginals(solution, new):
    row, column = solution.marginals
    return jnp.sum(_weights(*row.shape) * row) + jnp.sum(_weights(*column.shape) * column)


# One number for each output of a solution, with random but fixed weights.
OUTPUTS = {
    "value": lambda solution, new: solution.value,
    "potentials": _potentials,
    "value_linear": lambda solution, new: solution.value_linear,
    "plan": _plan,
    "marginals": _marginals,
    "transport": lambda solution, new: jnp.sum(_weights(*new.shape) * solution.transport(new)),
    "potential": lambda solution, new: jnp.sum(_weights(len(new)) * solution.potential(new)),
}
ALL = tuple(OUTPUTS)
WITHOUT_POINTS = ALL[:5]
# A ground cost enters through the reductions only, which these two exercise in both directions.
TWO = ALL[:2]
WITH_MAPS = (*TWO, "transport", "potential")


def scalars(inputs, engine, marginals, cost, names=ALL, **options) -> dict[str, jax.Array]:
    solution = solve(inputs, engine, marginals, cost, **options)
    return {name: OUTPUTS[name](solution, inputs["new points"]) for name in names}


def gradients_and_outputs(engine, marginals, cost, names):
    """One compilation for all: outputs, and the reverse-mode gradient of a combination of them."""

    def combination(inputs, weights):
        outputs = scalars(inputs, engine, marginals, cost, names)
        return sum(weights[name] * output for name, output in outputs.items()), outputs

    function = jax.jit(jax.grad(combination, has_aux=True))

    def outputs(inputs):
        return function(inputs, dict.fromkeys(names, jnp.array(0.0)))[1]

    def gradients(inputs):
        one_hot = {name: {k: jnp.array(float(k == name)) for k in names} for name in names}
        return {name: function(inputs, one_hot[name])[0] for name in names}

    return gradients, outputs


def assert_trees_close(actual, desired, *, rtol, atol=0.0, message=""):
    """Leaf by leaf; `atol` is relative to the largest entry if that is more than 1."""
    for got, want in zip(jax.tree.leaves(actual), jax.tree.leaves(desired), strict=True):
        scale = max(1.0, float(jnp.max(jnp.abs(want))))
        np.testing.assert_allclose(got, want, rtol=rtol, atol=atol * scale, err_msg=message)


def only(direction, leaf):
    """The part of a direction that moves `leaf` alone."""
    still = jax.tree.map(jnp.zeros_like, direction)
    return still | {leaf: direction[leaf]}


@pytest.mark.parametrize(
    "engine, marginals, cost, names",
    [
        ("dense", "balanced", "SqEuclidean", ALL),
        ("dense", "unbalanced first", "SqEuclidean", ALL),
        ("matrix", "unbalanced second", "SqEuclidean", WITHOUT_POINTS),
        ("streamed", "balanced", "SqEuclidean", TWO),
        pytest.param("streamed", "unbalanced", "callable", WITH_MAPS, marks=pytest.mark.slow),
        ("dense", "unbalanced second", "learnable", TWO),
        *(("dense", "balanced", cost, TWO) for cost in COSTS if cost != "SqEuclidean"),
    ],
)
def test_gradients_match_central_differences(engine, marginals, cost, names):
    gradients_at, outputs_at = gradients_and_outputs(engine, marginals, cost, names)
    for zeros in (False, True):
        inputs = make_inputs(marginals, cost, zeros=zeros)
        direction = make_direction(inputs, marginals)
        gradients = gradients_at(inputs)
        for leaf in inputs:
            expected = helpers.central_difference(outputs_at, inputs, only(direction, leaf))
            for name, derivative in expected.items():
                np.testing.assert_allclose(
                    helpers.inner_product(gradients[name][leaf], direction[leaf]),
                    derivative,
                    rtol=RELATIVE.get(name, OTHERS_RELATIVE),
                    atol=1e-9,
                    err_msg=f"{name} with respect to {leaf}, masses with zeros: {zeros}",
                )
        for name, gradient in gradients.items():
            for points, masses, mass in zip(
                gradient["points"], gradient["masses"], inputs["masses"], strict=True
            ):
                np.testing.assert_array_equal(masses[mass == 0], 0, err_msg=name)
                np.testing.assert_array_equal(points[mass == 0], 0, err_msg=name)


@pytest.mark.parametrize(
    "engine, marginals",
    [("dense", "balanced"), pytest.param("streamed", "unbalanced", marks=pytest.mark.slow)],
)
def test_forward_mode_equals_reverse_mode(engine, marginals):
    names = ("value", "potentials", "transport")

    def combination(inputs):
        outputs = scalars(inputs, engine, marginals, "learnable", names)
        return jnp.stack(list(outputs.values()))

    @jax.jit
    def both(inputs, direction, weights):
        _, forward = jax.jvp(combination, (inputs,), (direction,))
        _, pull_back = jax.vjp(combination, inputs)
        return jnp.sum(weights * forward), helpers.inner_product(pull_back(weights)[0], direction)

    inputs = make_inputs(marginals, "learnable")
    direction = make_direction(inputs, marginals)
    for weights in jnp.eye(len(names)):
        forward, reverse = both(inputs, direction, weights)
        np.testing.assert_allclose(forward, reverse, rtol=1e-9)


@pytest.mark.parametrize(
    "engine, marginals, cost, name",
    [
        ("dense", "balanced", "Euclidean", "value"),
        ("dense", "unbalanced", "learnable", "value"),
        ("dense", "unbalanced first", "SqEuclidean", "value"),
        ("streamed", "balanced", "SqEuclidean", "value"),
        pytest.param("streamed", "unbalanced second", "callable", "value", marks=pytest.mark.slow),
        ("dense", "balanced", "SqEuclidean", "potentials"),
    ],
)
def test_hessian_vector_products_match_central_differences(engine, marginals, cost, name):
    def output(inputs):
        return scalars(inputs, engine, marginals, cost, (name,))[name]

    @jax.jit
    def gradient_and_product(inputs, direction):
        return jax.jvp(jax.grad(output), (inputs,), (direction,))

    for zeros in (False, True):
        inputs = make_inputs(marginals, cost, zeros=zeros)
        direction = make_direction(inputs, marginals)
        for leaf in inputs:
            part = only(direction, leaf)
            _, product = gradient_and_product(inputs, part)
            expected = helpers.central_difference(
                lambda point, part=part: gradient_and_product(point, part)[0], inputs, part
            )
            for row in inputs:
                assert_trees_close(
                    product[row],
                    expected[row],
                    rtol=1e-4,
                    atol=1e-7,
                    message=f"d^2 / {row} {leaf}, masses with zeros: {zeros}",
                )


def test_compilation_changes_no_gradient():
    x, y = helpers.points()

    def value(x):
        problem = otjax.EntropicProblem(otjax.PointCloud(x, y), epsilon=0.5)
        return otjax.solve(problem, SOLVER, throw=False).value

    np.testing.assert_allclose(jax.grad(value)(x), jax.jit(jax.grad(value))(x), rtol=1e-10)


def test_hessians_of_all_modes_agree():
    x, y = helpers.points(n=4, m=3)

    def value(x):
        problem = otjax.EntropicProblem(otjax.PointCloud(x, y), epsilon=0.5)
        return otjax.solve(problem, SOLVER, throw=False).value

    forward_over_reverse = jax.jit(jax.hessian(value))(x)
    reverse_over_reverse = jax.jit(jax.jacrev(jax.jacrev(value)))(x)
    forward_over_forward = jax.jit(jax.jacfwd(jax.jacfwd(value)))(x)
    np.testing.assert_allclose(reverse_over_reverse, forward_over_reverse, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(forward_over_forward, forward_over_reverse, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(
        forward_over_reverse, jnp.transpose(forward_over_reverse, (2, 3, 0, 1)), atol=1e-10
    )


@pytest.mark.parametrize(
    "engine, marginals",
    [("dense", "balanced"), pytest.param("streamed", "unbalanced", marks=pytest.mark.slow)],
)
def test_gradients_of_a_batch_are_those_of_its_members(engine, marginals):
    def output(inputs):
        outputs = scalars(inputs, engine, marginals, "SqEuclidean", TWO)
        return sum(outputs.values(), start=jnp.zeros(()))

    members = [make_inputs(marginals, zeros=zeros) for zeros in (False, True)]
    # Epsilons far apart, so that the members need different numbers of steps.
    members = [m | {"epsilon": jnp.array(e)} for m, e in zip(members, (1.0, 0.05), strict=True)]
    batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)
    gradient = jax.jit(jax.grad(output))
    batched = jax.jit(jax.vmap(gradient))(batch)
    for index, member in enumerate(members):
        one = jax.tree.map(lambda leaf, i=index: leaf[i], batched)
        assert_trees_close(one, gradient(member), rtol=1e-7, atol=1e-9)


def gradient_with(adjoint, inputs, marginals, name):
    @eqx.filter_jit
    def gradient(inputs, adjoint):
        def output(inputs):
            names = (name,)
            return scalars(inputs, "dense", marginals, "SqEuclidean", names, adjoint=adjoint)[name]

        return jax.grad(output)(inputs)

    return gradient(inputs, adjoint)


@pytest.mark.parametrize("marginals, name", [("balanced", "potentials"), ("unbalanced", "plan")])
def test_unrolled_adjoint_equals_implicit_adjoint(marginals, name):
    inputs = make_inputs(marginals) | {"epsilon": jnp.array(1.0)}
    unrolled = gradient_with(otjax.UnrolledAdjoint(num_steps=200), inputs, marginals, name)
    implicit = gradient_with(otjax.ImplicitAdjoint(), inputs, marginals, name)
    if marginals == "balanced":
        # Where totals must stay equal, (1, -1) is no direction that masses can take.
        for gradient in (unrolled, implicit):
            a, b = gradient["masses"]
            excess = (jnp.sum(a) - jnp.sum(b)) / (a.size + b.size)
            gradient["masses"] = a - excess, b + excess
    assert_trees_close(unrolled, implicit, rtol=1e-5, atol=1e-7)


def test_options_of_adjoints_are_not_ignored():
    @eqx.filter_jit
    def gradient(inputs, adjoint):
        def output(inputs):
            return scalars(inputs, "dense", "balanced", "SqEuclidean", TWO, adjoint=adjoint)[
                "potentials"
            ]

        return jax.grad(output)(inputs)["points"][0]

    inputs = make_inputs()
    exact = gradient(inputs, otjax.ImplicitAdjoint(tolerance=1e-12))

    def error(adjoint):
        return float(jnp.max(jnp.abs(gradient(inputs, adjoint) - exact)))

    loose = error(otjax.ImplicitAdjoint(tolerance=0.3))
    assert 1e-4 < loose < 10
    assert error(otjax.ImplicitAdjoint(tolerance=1e-4)) < 0.1 * loose
    assert error(otjax.ImplicitAdjoint(tolerance=1e-12, max_steps=1)) > 1e-4
    few, many = (error(otjax.UnrolledAdjoint(num_steps=k)) for k in (2, 40))
    assert few > 10 * many


@pytest.mark.parametrize("n, m", [(12, 9), (64, 64)])
def test_single_precision_gradient_of_potentials_is_accurate(n, m):
    def spread(x, y):
        problem = otjax.EntropicProblem(otjax.PointCloud(x, y), epsilon=0.1)
        f, _ = otjax.solve(problem, throw=False).potentials
        return jnp.sum(jnp.square(f - jnp.mean(f)))

    gradient = jax.jit(jax.grad(spread))
    for seed in range(4):
        rng = np.random.default_rng(seed)
        x, y = (jnp.asarray(rng.uniform(size=(size, 2))) for size in (n, m))
        exact = gradient(x, y)
        single = gradient(x.astype(jnp.float32), y.astype(jnp.float32))
        assert single.dtype == jnp.float32
        assert bool(jnp.all(jnp.isfinite(single)))
        error = np.linalg.norm(np.asarray(single, np.float64) - exact) / np.linalg.norm(exact)
        assert error < 2e-3, f"seed {seed}: {error}"


@pytest.mark.parametrize(
    "engine, cost, d",
    [
        ("dense", otjax.Euclidean(), 2),
        pytest.param(
            "streamed", otjax.Euclidean(), 6, marks=pytest.mark.slow
        ),  # by matrix products
        ("dense", otjax.PNorm(1.5), 2),
    ],
)
def test_derivatives_at_coincident_points_are_finite(engine, cost, d):
    x, y = helpers.points(d=d)
    y = y.at[:4].set(x[:4])

    def value(x):
        problem = otjax.EntropicProblem(ENGINES[engine](x, y, cost), epsilon=0.3)
        return otjax.solve(problem, throw=False).value

    both = jax.jit(lambda x: jax.jvp(jax.grad(value), (x,), (jnp.ones_like(x),)))
    for derivative in both(x):
        assert bool(jnp.all(jnp.isfinite(derivative)))


@pytest.mark.parametrize("cost", [otjax.Euclidean(), otjax.PNorm(1.0), otjax.PNorm(2.5, power=0.5)])
@pytest.mark.parametrize("d", [1, 6])
def test_gradient_between_coincident_points_is_zero(cost, d):
    x = jnp.asarray(np.random.default_rng(d).normal(size=(5, d)))
    gradient = jax.grad(lambda x, y: jnp.sum(jnp.diagonal(cost.pairwise(x, y))))(x, x)
    np.testing.assert_array_equal(gradient, 0)
    gradient = jax.grad(cost)(x[0], x[0])
    np.testing.assert_array_equal(gradient, 0)


def test_cosine_of_a_zero_vector_has_zero_gradient():
    x, zero = jnp.array([0.3, -1.0]), jnp.zeros(2)
    assert otjax.Cosine()(x, zero) == 1
    for gradient in jax.grad(otjax.Cosine(), (0, 1))(x, zero):
        np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("engine", ["dense", pytest.param("streamed", marks=pytest.mark.slow)])
def test_callables_may_close_over_what_is_differentiated(engine):
    x, y = helpers.points()

    def outputs(scale):
        def cost(x, y):
            return jnp.sum(jnp.square(scale[0] * x - y)) + scale[1] * jnp.sum(x * y)

        problem = otjax.EntropicProblem(ENGINES[engine](x, y, cost), epsilon=0.3)
        solution = otjax.solve(problem, SOLVER, throw=False)
        return jnp.stack([OUTPUTS[name](solution, x[:4]) for name in TWO])

    scale, direction = jnp.array([1.1, 0.2]), jnp.array([0.6, -0.9])
    both = jax.jit(lambda scale: (outputs(scale), jax.jacrev(outputs)(scale)))
    expected = helpers.central_difference(lambda s: both(s)[0], scale, direction)
    np.testing.assert_allclose(jnp.matmul(both(scale)[1], direction), expected, rtol=1e-6)
    product = jax.jit(lambda s: jax.jvp(jax.grad(lambda s: outputs(s)[0]), (s,), (direction,)))
    expected = helpers.central_difference(lambda s: product(s)[0], scale, direction)
    np.testing.assert_allclose(product(scale)[1], expected, rtol=1e-4)
