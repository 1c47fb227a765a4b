"""A solver that says how far it is, and is otherwise the solver within."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import otjax


def _watched(solver=None):
    reports = []

    def note(steps, error, epsilon):
        reports.append((int(steps), float(error), float(epsilon)))

    solver = otjax.Sinkhorn(tolerance=1e-5) if solver is None else solver
    return otjax.Watched(solver, note), reports


def _problem(epsilon=0.02):
    x = jax.random.normal(jax.random.key(0), (12, 2))
    return otjax.EntropicProblem(otjax.PointCloud(x, x[:9] + 1), epsilon=epsilon)


def test_reports_tell_of_the_solve_and_change_nothing_of_it():
    watched, reports = _watched()
    solution = otjax.solve(_problem(), watched)
    jax.effects_barrier()
    alone = otjax.solve(_problem(), watched.solver)
    np.testing.assert_array_equal(solution.potentials[0], alone.potentials[0])
    steps, errors, epsilons = np.transpose(reports)
    assert steps[-1] == int(solution.stats.num_steps) and np.all(np.diff(steps) >= 0)
    np.testing.assert_allclose(errors[-1], solution.stats.marginal_error, rtol=1e-3, atol=1e-9)
    # The annealing ends at the problem's own.
    assert epsilons[0] > 2 and epsilons[-1] == 1 and np.all(np.diff(epsilons) <= 0)


def test_reports_come_from_compiled_batches_and_their_derivatives():
    watched, reports = _watched()

    def value(epsilon):
        return otjax.solve(_problem(epsilon), watched, throw=False).value

    slopes = jax.jit(jax.vmap(jax.grad(value)))(jnp.array([0.5, 0.05]))
    jax.effects_barrier()
    assert jnp.all(jnp.isfinite(slopes))
    assert sum(error <= 1e-5 and epsilon == 1 for _, error, epsilon in reports) >= 2


@pytest.mark.parametrize(
    "arguments, message",
    [((otjax.LBFGS(), print), "`solver` must be"), ((otjax.Sinkhorn(), 3), "`report` must be")],
)
def test_what_cannot_be_watched_is_refused(arguments, message, unchecked):
    with pytest.raises(ValueError, match=message):
        otjax.Watched(*arguments)
