"""What must not matter, and what must matter in a known way."""

import functools as ft

import helpers
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import COSTS, ENGINES, MARGINALS

import otjax
from otjax import RESULTS


SOLVER = otjax.Sinkhorn(tolerance=1e-11)
SEEDS = st.integers(0, 10_000)


@ft.partial(jax.jit, static_argnames=("engine", "marginals", "cost"))
def solve_points(
    x, y, a, b, epsilon=0.3, rho=0.7, *, engine="dense", marginals="balanced",
    cost="SqEuclidean",
):  # fmt: skip
    return outputs(ENGINES[engine](x, y, COSTS[cost]()), a, b, epsilon, rho, marginals)


@ft.partial(jax.jit, static_argnames="marginals")
def solve_matrix(matrix, a, b, epsilon=0.3, rho=0.7, *, marginals="balanced"):
    return outputs(otjax.CostMatrix(matrix), a, b, epsilon, rho, marginals)


def outputs(geometry, a, b, epsilon, rho, marginals):
    problem = otjax.EntropicProblem(
        geometry, a, b, epsilon=epsilon, marginals=MARGINALS[marginals](rho)
    )
    tolerance = 1e-11 if geometry.dtype == jnp.float64 else 1e-5
    solution = otjax.solve(problem, otjax.Sinkhorn(tolerance=tolerance), throw=False)
    return {
        "value": solution.value,
        "value_linear": solution.value_linear,
        "potentials": solution.potentials,
        "marginals": solution.marginals,
        "plan": solution.plan.as_matrix(),
        "num_steps": solution.stats.num_steps,
        "result": solution.result,
    }


def assert_same(
    actual, desired, names=("value", "value_linear", "potentials", "marginals", "plan")
):
    for name in names:
        jax.tree.map(
            lambda got, want, name=name: np.testing.assert_allclose(
                got, want, rtol=1e-8, atol=1e-9, err_msg=name
            ),
            actual[name],
            desired[name],
        )


def data(seed, totals=(1.0, 1.0), dtype=jnp.float64, d=helpers.D):
    x, y = helpers.points(seed, d=d, dtype=dtype)
    return x, y, *helpers.masses(seed, totals=totals, dtype=dtype)


def swapped(solved):
    return solved | {
        "potentials": solved["potentials"][::-1],
        "marginals": solved["marginals"][::-1],
        "plan": solved["plan"].T,
    }


@pytest.mark.parametrize(
    "engine, marginals",
    [pytest.param("streamed", "unbalanced first", marks=pytest.mark.slow), ("matrix", "balanced")],
)
def test_exchange_of_the_two_measures(engine, marginals):
    x, y, a, b = data(0)
    problem = otjax.EntropicProblem(
        ENGINES[engine](x, y, helpers.callable_cost),
        a,
        b,
        epsilon=0.3,
        marginals=MARGINALS[marginals](0.7),
    )
    solution = otjax.solve(problem, SOLVER)
    exchanged = otjax.solve(problem.T, SOLVER)
    np.testing.assert_allclose(exchanged.value, solution.value, rtol=1e-9)
    for view in (solution.T, exchanged):
        assert view.problem.geometry.shape == (helpers.M, helpers.N)
        np.testing.assert_allclose(view.potentials[0], solution.potentials[1], atol=1e-8)
        np.testing.assert_allclose(view.potentials[1], solution.potentials[0], atol=1e-8)
        np.testing.assert_allclose(view.plan.as_matrix(), solution.plan.as_matrix().T, atol=1e-9)
        np.testing.assert_allclose(view.value_linear, solution.value_linear, rtol=1e-8)
    np.testing.assert_allclose(solution.T.T.value_linear, solution.value_linear, rtol=1e-12)


@hypothesis.given(seed=SEEDS, marginals=st.sampled_from(["balanced", "unbalanced"]))
def test_order_of_the_points(seed, marginals):
    x, y, a, b = data(seed)
    rng = np.random.default_rng(seed)
    rows, columns = rng.permutation(helpers.N), rng.permutation(helpers.M)
    solved = solve_points(x, y, a, b, marginals=marginals)
    permuted = solve_points(x[rows], y[columns], a[rows], b[columns], marginals=marginals)
    f, g = solved["potentials"]
    row, column = solved["marginals"]
    assert_same(
        permuted,
        solved
        | {
            "potentials": (f[rows], g[columns]),
            "marginals": (row[rows], column[columns]),
            "plan": solved["plan"][np.ix_(rows, columns)],
        },
    )


@pytest.mark.parametrize("cost", ["SqEuclidean", "Euclidean", "p-norm"])
@hypothesis.given(seed=SEEDS, size=st.floats(-50, 50))
def test_translation(cost, seed, size):
    x, y, a, b = data(seed)
    shift = size * jnp.asarray(np.random.default_rng(seed).normal(size=(1, helpers.D)))
    assert_same(
        solve_points(x + shift, y + shift, a, b, cost=cost), solve_points(x, y, a, b, cost=cost)
    )


@pytest.mark.parametrize("engine", ["dense", "streamed"])
@pytest.mark.parametrize("d", [2, 16])
def test_single_precision_far_from_the_origin(d, engine):
    x, y, a, b = data(0, dtype=jnp.float32, d=d)
    here = solve_points(x, y, a, b, engine=engine)
    there = solve_points(x + 1000, y + 1000, a, b, engine=engine)
    assert there["result"] == RESULTS.successful
    np.testing.assert_allclose(there["value"], here["value"], rtol=1e-3)
    np.testing.assert_allclose(there["plan"], here["plan"], atol=1e-3)


@hypothesis.given(seed=SEEDS, constant=st.floats(-20, 20))
def test_constant_added_to_the_cost(seed, constant):
    x, y, a, b = data(seed, totals=(1.7, 1.7))
    cost = helpers.cost_matrix(x, y, otjax.SqEuclidean())
    solved, moved = solve_matrix(cost, a, b), solve_matrix(cost + constant, a, b)
    np.testing.assert_allclose(moved["value"], solved["value"] + 1.7 * constant, rtol=1e-9)
    np.testing.assert_allclose(
        moved["value_linear"], solved["value_linear"] + 1.7 * constant, rtol=1e-8
    )
    for moved_potential, potential in zip(moved["potentials"], solved["potentials"], strict=True):
        np.testing.assert_allclose(moved_potential, potential + 0.5 * constant, atol=1e-8)
    np.testing.assert_allclose(moved["plan"], solved["plan"], atol=1e-9)


@hypothesis.given(
    seed=SEEDS,
    exponent=st.floats(-4, 4),
    marginals=st.sampled_from(["balanced", "unbalanced"]),
)
def test_unit_of_the_cost(seed, exponent, marginals):
    x, y, a, b = data(seed)
    unit = 10.0**exponent
    cost = helpers.cost_matrix(x, y, otjax.SqEuclidean())
    solved = solve_matrix(cost, a, b, 0.3, 0.7, marginals=marginals)
    scaled = solve_matrix(unit * cost, a, b, unit * 0.3, unit * 0.7, marginals=marginals)
    for name in ("value", "value_linear", "potentials"):
        jax.tree.map(
            lambda got, want: np.testing.assert_allclose(
                got, unit * want, rtol=1e-7, atol=1e-9 * unit
            ),
            scaled[name],
            solved[name],
        )
    assert_same(scaled, solved, ("plan", "marginals"))
    assert scaled["num_steps"] == solved["num_steps"]


@pytest.mark.parametrize("marginals", ["balanced", "unbalanced"])
@hypothesis.given(seed=SEEDS, share=st.floats(0, 1))
def test_division_of_a_point(marginals, seed, share):
    x, y, a, b = data(seed)
    solved = solve_points(x, y, a, b, marginals=marginals)
    divided = solve_points(
        jnp.concatenate([x, x[:1]]),
        y,
        jnp.concatenate([a.at[0].mul(share), (1 - share) * a[:1]]),
        b,
        marginals=marginals,
    )
    assert_same(divided, solved, ("value", "value_linear"))
    np.testing.assert_allclose(
        divided["potentials"][0][1:-1], solved["potentials"][0][1:], atol=1e-8
    )
    np.testing.assert_allclose(divided["potentials"][1], solved["potentials"][1], atol=1e-8)
    merged = divided["plan"][:-1].at[0].add(divided["plan"][-1])
    np.testing.assert_allclose(merged, solved["plan"], atol=1e-9)


PADDINGS = [0.0, 1e30, -1e300, jnp.inf, jnp.nan]


def pad(array, fill, width=2):
    return jnp.concatenate([array, jnp.full((width, *array.shape[1:]), fill, array.dtype)])


def without_padding(solved):
    n, m = helpers.N, helpers.M
    return {
        "value": solved["value"],
        "value_linear": solved["value_linear"],
        "potentials": (solved["potentials"][0][:n], solved["potentials"][1][:m]),
        "marginals": (solved["marginals"][0][:n], solved["marginals"][1][:m]),
        "plan": solved["plan"][:n, :m],
        "num_steps": solved["num_steps"],
    }


@pytest.mark.parametrize("engine, marginals", [("dense", "unbalanced"), ("streamed", "balanced")])
def test_points_without_mass_do_not_exist(engine, marginals):
    options = {"engine": engine, "marginals": marginals}
    x, y, a, b = data(0)
    solved = solve_points(x, y, a, b, **options)
    for fill in PADDINGS:
        padded = solve_points(pad(x, fill), pad(y, fill), pad(a, 0), pad(b, 0), **options)
        assert padded["result"] == RESULTS.successful
        assert padded["num_steps"] == solved["num_steps"]
        assert_same(without_padding(padded), solved)
        for leaf in jax.tree.leaves(padded):
            assert not np.any(np.isnan(leaf)), f"padded with {fill}"
        np.testing.assert_array_equal(padded["plan"][helpers.N :], 0)
        np.testing.assert_array_equal(padded["plan"][:, helpers.M :], 0)


def test_rows_and_columns_without_mass_do_not_exist():
    x, y, a, b = data(0)
    cost = helpers.cost_matrix(x, y, otjax.SqEuclidean())
    solved = solve_matrix(cost, a, b)
    for fill in PADDINGS:
        padded = solve_matrix(pad(pad(cost, fill).T, fill).T, pad(a, 0), pad(b, 0))
        assert padded["result"] == RESULTS.successful
        assert padded["num_steps"] == solved["num_steps"]
        assert_same(without_padding(padded), solved)


def test_points_without_mass_have_no_derivatives():
    x, y, a, b = data(0)

    @jax.jit
    def gradient(x, y, a, b):
        def output(x, y, a, b):
            problem = otjax.EntropicProblem(otjax.PointCloud(x, y), a, b, epsilon=0.3)
            solution = otjax.solve(problem, SOLVER, throw=False)
            return solution.value + jnp.sum(jnp.square(solution.transport(x[:3])))

        return jax.grad(output, argnums=(0, 1, 2, 3))(x, y, a, b)

    exact = gradient(x, y, a, b)
    for fill in (0.0, jnp.nan):
        padded = gradient(pad(x, fill), pad(y, fill), pad(a, 0), pad(b, 0))
        for got, want in zip(padded, exact, strict=True):
            np.testing.assert_allclose(got[: len(want)], want, rtol=1e-7, atol=1e-9)
            np.testing.assert_array_equal(got[len(want) :], 0)


def test_default_epsilon_ignores_points_without_mass():
    x, y, a, b = data(0)
    became = lambda problem: otjax.solve(problem).problem.epsilon
    exact = became(otjax.EntropicProblem(otjax.PointCloud(x, y), a, b))
    for fill in PADDINGS:
        cloud = otjax.PointCloud(pad(x, fill), pad(y, fill))
        padded = became(otjax.EntropicProblem(cloud, pad(a, 0), pad(b, 0)))
        np.testing.assert_allclose(padded, exact, rtol=1e-12)


@pytest.mark.parametrize(
    "engine, marginals",
    [("dense", "balanced"), pytest.param("streamed", "unbalanced", marks=pytest.mark.slow)],
)
def test_batch_is_a_loop(engine, marginals):
    solve = ft.partial(solve_points, engine=engine, marginals=marginals)
    members = [data(seed) for seed in range(5)]
    # Three that are solved in different numbers of steps, and two that cannot be.
    epsilons = jnp.array([2.0, 0.3, 0.05, 0.3, -1.0])
    members[3] = members[3][0].at[0, 0].set(jnp.nan), *members[3][1:]
    batch = [jnp.stack(arrays) for arrays in zip(*members, strict=True)]
    batched = jax.vmap(solve)(*batch, epsilons)
    expected = [RESULTS.successful] * 3 + [RESULTS.nonfinite_input, RESULTS.invalid_epsilon]
    steps = set()
    for index, (member, epsilon) in enumerate(zip(members, epsilons, strict=True)):
        one = jax.tree.map(lambda leaf, i=index: leaf[i], batched)
        alone = solve(*member, epsilon)
        assert_same(one, alone)
        assert one["num_steps"] == alone["num_steps"]
        assert one["result"] == alone["result"] == expected[index]
        steps.add(int(one["num_steps"]))
    assert len(steps) > 2


def test_batch_is_a_loop_where_steps_run_out():
    def solve(epsilon):
        problem = helpers.make_problem(engine="matrix").at(epsilon)
        solution = otjax.solve(problem, SOLVER, max_steps=20, throw=False)
        return solution.result, solution.stats.num_steps

    results, steps = jax.vmap(solve)(jnp.array([2.0, 0.02]))
    easy, hard = (jax.tree.map(lambda leaf, i=i: leaf[i], results) for i in (0, 1))
    assert easy == RESULTS.successful
    assert hard == RESULTS.max_steps_reached
    assert steps[0] < steps[1] == 20


def test_compilation_changes_nothing():
    x, y, a, b = data(0)
    compiled = solve_points(x, y, a, b)
    problem = otjax.EntropicProblem(otjax.PointCloud(x, y), a, b, epsilon=0.3)
    solution = otjax.solve(problem, SOLVER)
    np.testing.assert_allclose(solution.value, compiled["value"], rtol=1e-13)
    np.testing.assert_allclose(solution.plan.as_matrix(), compiled["plan"], rtol=1e-11)
    assert solution.stats.num_steps == compiled["num_steps"]


@pytest.mark.parametrize(
    "dtype, inner",
    [(jnp.float32, jnp.float32), (jnp.bfloat16, jnp.float32), (jnp.float16, jnp.float32)],
)
def test_precision_is_that_of_the_points(dtype, inner):
    """Half precision is computed in single precision; numbers without a dtype change nothing."""

    def value(x, y):
        problem = otjax.EntropicProblem(
            otjax.PointCloud(x, y), epsilon=0.3, marginals=otjax.Unbalanced(2.0)
        )
        solution = otjax.solve(problem, throw=False)
        everything = (
            problem.epsilon,
            solution.value,
            solution.value_linear,
            solution.potentials,
            solution.marginals,
            solution.plan.as_matrix(),
            solution.stats.marginal_error,
            solution.transport(x),
            solution.potential(x),
        )
        return solution.value, everything

    x, y = helpers.points(dtype=dtype)
    gradient, everything = jax.jit(jax.grad(value, has_aux=True))(x, y)
    assert gradient.dtype == dtype
    assert bool(jnp.all(jnp.isfinite(gradient)))
    for leaf in jax.tree.leaves(everything):
        assert leaf.dtype == inner
        assert bool(jnp.all(jnp.isfinite(leaf)))


def test_divergence_keeps_single_precision():
    x, y = helpers.points(dtype=jnp.float32)
    assert otjax.sinkhorn_divergence(x, y, epsilon=0.3).dtype == jnp.float32
    assert otjax.sinkhorn_divergence(x, y, *helpers.masses()).dtype == jnp.float32
