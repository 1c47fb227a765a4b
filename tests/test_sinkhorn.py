"""Solvers: when they stop, what they report, and that each of their options has its effect."""

import helpers
import jax
import jax.lax as lax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from helpers import make_problem, SOLVERS

import otjax
from otjax import RESULTS


@pytest.fixture(params=SOLVERS, scope="module")
def make_solver(request):
    return SOLVERS[request.param]


def run(problem, solver, *, max_steps=5000, init=None):
    """As a rule with `max_steps`, so that one program serves many tests."""
    return otjax.solve(problem, solver, max_steps=max_steps, init=init, throw=False)


def targets(solution):
    """The marginals that the potentials ask for."""
    problem = solution.problem
    sides = zip(problem.marginals, (problem.a, problem.b), solution.potentials, strict=True)
    return [
        np.asarray(
            mass * jnp.exp(-f / side.rho.astype(f.dtype)) if hasattr(side, "rho") else mass,
            np.float64,
        )
        for side, mass, f in sides
    ]


def error_of_the_plan(solution):
    plan = np.asarray(solution.plan.as_matrix(), np.float64)
    wanted = targets(solution)
    errors = [np.abs(plan.sum(1 - side) - wanted[side]).sum() for side in (0, 1)]
    return sum(errors) / (0.5 * sum(target.sum() for target in wanted))


def reference_potentials(problem, cost):
    """Sinkhorn's iteration as in the textbook, in NumPy."""
    epsilon = float(problem.epsilon)
    a, b = np.asarray(problem.a), np.asarray(problem.b)
    damping = [
        float(side.rho / (side.rho + epsilon)) if hasattr(side, "rho") else 1.0
        for side in problem.marginals
    ]
    f, g = np.zeros_like(a), np.zeros_like(b)
    for _ in range(3000):
        scores = (g[None, :] - cost) / epsilon
        f = -damping[0] * epsilon * scipy.special.logsumexp(scores, b=b[None, :], axis=1)
        scores = (f[:, None] - cost) / epsilon
        g = -damping[1] * epsilon * scipy.special.logsumexp(scores, b=a[:, None], axis=0)
    if damping == [1.0, 1.0]:
        shift = 0.5 * (np.sum(b * g) - np.sum(a * f))
        f, g = f + shift, g - shift
    return f, g


@pytest.mark.parametrize("marginals", ["balanced", "unbalanced"])
def test_potentials_are_those_of_the_textbook(make_solver, marginals):
    problem = make_problem(
        marginals=marginals, totals=(1, 1) if marginals == "balanced" else (1.5, 0.5)
    )
    cost = np.asarray(helpers.cost_matrix(*helpers.points(), otjax.SqEuclidean()))
    solution = run(problem, make_solver(tolerance=1e-12))
    assert solution.result == RESULTS.successful
    for potential, expected in zip(
        solution.potentials, reference_potentials(problem, cost), strict=True
    ):
        np.testing.assert_allclose(potential, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("marginals", ["unbalanced first", "unbalanced second"])
@pytest.mark.parametrize("name", ["sinkhorn", "newton"])
def test_semirelaxed_potentials_are_those_of_the_textbook(name, marginals):
    problem = make_problem(marginals=marginals)
    cost = np.asarray(helpers.cost_matrix(*helpers.points(), otjax.SqEuclidean()))
    solution = run(problem, SOLVERS[name](tolerance=1e-12))
    assert solution.result == RESULTS.successful
    for potential, expected in zip(
        solution.potentials, reference_potentials(problem, cost), strict=True
    ):
        np.testing.assert_allclose(potential, expected, rtol=1e-9, atol=1e-9)


def test_max_steps_is_obeyed_to_the_step(make_solver):
    problem = make_problem(epsilon=0.02)
    for max_steps in (1, 2, 3, 5):
        solution = run(problem, make_solver(tolerance=1e-9), max_steps=max_steps)
        assert solution.stats.num_steps == max_steps
        assert solution.result == RESULTS.max_steps_reached
        assert solution.stats.marginal_error > 1e-9


def test_the_reported_error_is_that_of_the_plan(make_solver):
    for marginals in ("balanced", "unbalanced"):
        problem = make_problem(marginals=marginals, epsilon=0.1)
        for max_steps in (4, 5000):
            solution = run(problem, make_solver(tolerance=1e-6), max_steps=max_steps)
            np.testing.assert_allclose(
                solution.stats.marginal_error, error_of_the_plan(solution), rtol=1e-7, atol=1e-14
            )
            np.testing.assert_array_equal(
                solution.stats["marginal_error"], solution.stats.marginal_error
            )
            assert solution.stats["num_steps"] == solution.stats.num_steps


@pytest.mark.parametrize(
    "dtype, tolerances", [(jnp.float64, (1e-3, 1e-9)), (jnp.float32, (1e-2, 1e-4))]
)
def test_the_tolerance_is_met(make_solver, dtype, tolerances):
    steps = []
    for epsilon in (3.0, 0.3, 0.1):
        problem = make_problem(epsilon=epsilon, dtype=dtype)
        for tolerance in tolerances:
            solution = run(problem, make_solver(tolerance=tolerance))
            assert solution.result == RESULTS.successful
            # In the plan's own precision, in which it is summed here.
            assert error_of_the_plan(solution) <= tolerance + 20 * jnp.finfo(dtype).eps
            steps.append(int(solution.stats.num_steps))
    # One step of Newton's may do for both at a large epsilon.
    assert all(loose <= tight for loose, tight in zip(steps[::2], steps[1::2], strict=True))
    assert sum(steps[::2]) < sum(steps[1::2])


def test_the_default_tolerance_depends_on_the_dtype():
    for dtype, expected in ((jnp.float64, 1e-9), (jnp.float32, 1e-4)):
        problem = make_problem(epsilon=1.0, dtype=dtype)
        default, asked = (run(problem, otjax.Sinkhorn(tolerance=t)) for t in (None, expected))
        assert default.stats.num_steps == asked.stats.num_steps
        # Two programs, that may round differently.
        rounding = 16 * jnp.finfo(dtype).eps
        np.testing.assert_allclose(default.potentials[0], asked.potentials[0], atol=rounding)


def test_what_cannot_be_reached_is_reported():
    problem = make_problem(dtype=jnp.float32)
    solution = run(problem, otjax.Sinkhorn(tolerance=1e-12))
    assert solution.result == RESULTS.stagnated
    assert solution.stats.num_steps < 500
    assert error_of_the_plan(solution) < 1e-4


def test_a_warm_start_from_the_solution_takes_one_step(make_solver):
    problem = make_problem(epsilon=0.1)
    solver = make_solver(tolerance=1e-9)
    solution = run(problem, solver)
    again = run(problem, solver, init=solution.potentials)
    assert again.stats.num_steps == 1
    assert again.result == RESULTS.successful
    np.testing.assert_allclose(again.potentials[0], solution.potentials[0], atol=1e-9)
    # From a neighbour: sooner than from nothing, to the same end.
    near = make_problem(epsilon=0.1005)
    warm, cold = run(near, solver, init=solution.potentials), run(near, solver)
    assert 1 < warm.stats.num_steps < cold.stats.num_steps
    np.testing.assert_allclose(warm.value, cold.value, rtol=1e-8)
    # From far away: to the same end.
    rng = np.random.default_rng(0)
    far = tuple(jnp.asarray(100 * rng.normal(size=f.shape)) for f in solution.potentials)
    astray = run(problem, solver, init=far)
    assert astray.result == RESULTS.successful
    np.testing.assert_allclose(astray.value, solution.value, rtol=1e-8)


def num_steps(solver, epsilon=0.05):
    solution = run(make_problem(epsilon=epsilon), solver)
    assert solution.result == RESULTS.successful
    return int(solution.stats.num_steps)


@pytest.mark.parametrize(
    "options",
    [
        {"annealing": otjax.NoAnnealing()},
        {"annealing": otjax.GeometricAnnealing(start=1.0)},
        {"annealing": otjax.GeometricAnnealing(factor=0.8)},
        {"annealing": otjax.GeometricAnnealing(stage_tolerance=1e-6)},
    ],
)
@pytest.mark.parametrize("solver", [otjax.Sinkhorn, otjax.DualNewton, otjax.Adaptive])
def test_options_of_the_annealing_have_an_effect(solver, options):
    # Numbers of steps may agree by chance, errors to the last digit do not.
    other, default = (run(make_problem(epsilon=0.05), one) for one in (solver(**options), solver()))
    assert other.result == default.result == RESULTS.successful
    assert other.stats.marginal_error != default.stats.marginal_error


def test_options_of_the_accelerations_have_an_effect():
    def steps(acceleration):
        annealing = otjax.NoAnnealing()
        return num_steps(otjax.Sinkhorn(annealing=annealing, acceleration=acceleration), 0.3)

    plain, anderson = steps(otjax.Plain()), steps(otjax.Anderson())
    overrelaxed = steps(otjax.Overrelaxation(1.5))
    assert anderson < overrelaxed < plain
    assert steps(otjax.Overrelaxation(1.0)) == plain
    assert steps(otjax.Overrelaxation(1.2)) not in (plain, overrelaxed)
    assert steps(otjax.Anderson(memory=2)) > anderson


def test_the_number_of_products_of_a_newton_step_has_an_effect():
    assert num_steps(otjax.DualNewton(max_products=2)) > num_steps(otjax.DualNewton())


def test_newton_takes_fewer_steps_where_sinkhorn_crawls():
    newton, sinkhorn, adaptive = (
        num_steps(SOLVERS[name](tolerance=1e-11), 0.005)
        for name in ("newton", "sinkhorn", "adaptive")
    )
    assert newton < sinkhorn
    assert newton < adaptive < sinkhorn


def self_problem(side):
    x, _ = helpers.points()
    a, _ = helpers.masses(zeros=True)
    return otjax.EntropicProblem(otjax.PointCloud(x, x), a, a, epsilon=0.3, marginals=side)


@pytest.mark.parametrize("marginals", ["balanced", "unbalanced"])
def test_the_symmetric_solver_solves_self_problems(marginals):
    problem = self_problem(helpers.MARGINALS[marginals](0.7))
    general = run(problem, otjax.Sinkhorn(tolerance=1e-12))
    symmetric = run(problem, otjax.SymmetricSinkhorn(tolerance=1e-12))
    loose = run(problem, otjax.SymmetricSinkhorn(tolerance=1e-3))
    assert general.result == symmetric.result == loose.result == RESULTS.successful
    assert loose.stats.num_steps < symmetric.stats.num_steps
    np.testing.assert_allclose(*symmetric.potentials, rtol=1e-14)
    np.testing.assert_allclose(symmetric.potentials[0], general.potentials[0], atol=1e-9)
    np.testing.assert_allclose(symmetric.value, general.value, rtol=1e-10)


def test_the_symmetric_solver_tells_what_is_not_its_problem():
    solver = otjax.SymmetricSinkhorn()
    with pytest.raises(ValueError, match="measure against itself"):
        run(helpers.make_problem(), solver)
    x, y = helpers.points(m=helpers.N)
    a, _ = helpers.masses()
    others = (
        otjax.EntropicProblem(otjax.PointCloud(x, x), a, a[::-1], epsilon=0.3),
        otjax.EntropicProblem(otjax.PointCloud(x, y), a, a, epsilon=0.3),
        otjax.EntropicProblem(otjax.PointCloud(x, x, cost=helpers.callable_cost), epsilon=0.3),
    )
    for problem in others:
        solution = run(problem, solver)
        assert solution.result == RESULTS.not_symmetric
        assert solution.stats.num_steps < 5
        assert jnp.isfinite(solution.value)


def test_sweeps_are_one_program():
    x, y = helpers.points()
    solver = otjax.Sinkhorn(tolerance=1e-10)
    traces = []

    def solve(epsilon, rho, init):
        traces.append(epsilon)
        problem = otjax.EntropicProblem(
            otjax.PointCloud(x, y), epsilon=epsilon, marginals=otjax.Unbalanced(rho)
        )
        solution = otjax.solve(problem, solver, init=init, throw=False)
        return solution.value, solution.stats.num_steps, solution.potentials

    def step(potentials, numbers):
        value, steps, potentials = solve(*numbers, potentials)
        return potentials, (value, steps)

    epsilons, rhos = jnp.geomspace(2.0, 0.05, 5), jnp.linspace(0.3, 3.0, 5)
    zeros = jnp.zeros(helpers.N), jnp.zeros(helpers.M)
    one = jax.jit(solve)
    alone = [one(epsilon, rho, zeros) for epsilon, rho in zip(epsilons, rhos, strict=True)]
    values, steps = (jnp.stack([outputs[k] for outputs in alone]) for k in (0, 1))
    assert len(set(steps.tolist())) > 1
    batched = jax.jit(jax.vmap(solve, in_axes=(0, 0, None)))(epsilons, rhos, zeros)
    np.testing.assert_allclose(batched[0], values, rtol=1e-12)
    np.testing.assert_array_equal(batched[1], steps)
    # One after the other, each from the solution of the last.
    _, scanned = jax.jit(lambda e, r: lax.scan(step, zeros, (e, r)))(epsilons, rhos)
    np.testing.assert_allclose(scanned[0], values, rtol=1e-9)
    assert jnp.sum(scanned[1]) < jnp.sum(steps)
    assert len(traces) == 3


def test_single_precision_reaches_what_rounding_allows():
    # An extrapolation that leaves the absorbed plan's range must not be all that is tried.
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(100, 2)), 1 + 0.5 * rng.normal(size=(100, 2))
    cloud = otjax.PointCloud(x.astype(np.float32), y.astype(np.float32))
    epsilon = 5e-4 * np.mean(np.sum((x[:, None] - y[None]) ** 2, axis=2))
    problem = otjax.EntropicProblem(cloud, epsilon=epsilon)
    solution = run(problem, otjax.Sinkhorn(tolerance=1.5e-3))
    assert solution.result == RESULTS.successful
    assert error_of_the_plan(solution) < 2e-3
    assert solution.stats.num_steps < 200


def test_plateaus_are_left():
    # A few points at a small epsilon: until one of them has moved far, the error stays the same.
    rng = np.random.default_rng(1)
    x, y = (rng.uniform(size=(512, 20, 3)).astype(np.float32) for _ in range(2))

    def solve(x, y):
        problem = otjax.EntropicProblem(otjax.PointCloud(x, y), epsilon=0.002)
        return otjax.solve(problem, otjax.Sinkhorn(), throw=False)

    solutions = jax.vmap(solve)(jnp.asarray(x), jnp.asarray(y))
    failed = solutions.result != RESULTS.successful
    assert not jnp.any(failed), solutions.stats.num_steps[failed]
