"""The loop of the solvers: its table of transitions, row by row, and that it ends."""

import traceback

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import otjax
from otjax import RESULTS
from otjax._solver._ending import Ending, Move, move_after, TRANSITIONS


def test_each_ending_has_a_row_and_each_row_goes_on_or_ends():
    assert set(TRANSITIONS) == set(Ending)
    for ending, (before, at_end) in TRANSITIONS.items():
        for move in (before, at_end):
            # What ends does nothing else; what looks once more goes nowhere.
            if move.end:
                assert move == Move(end=True), ending
            if move.look:
                assert move == Move(look=True), ending
            assert not (move.lower and move.jump), ending
            # A new epsilon is a new iteration.
            assert move.anew or not (move.lower or move.jump), ending
        # At the last epsilon there is none to go to; before it a solve ends for no other reason
        # than that it cannot go on.
        assert not (at_end.lower or at_end.jump), ending
        assert not before.look, ending
        assert before.end == (ending in (Ending.NOT_FINITE, Ending.UNFIT)), ending
    ends = {ending for ending, (_, at_end) in TRANSITIONS.items() if at_end.end or at_end.look}
    assert ends == {
        Ending.CONFIRMED, Ending.STALLED, Ending.EXHAUSTED, Ending.NOT_FINITE, Ending.UNFIT
    }  # fmt: skip


def test_what_does_not_move_by_itself_moves_by_a_logarithm_or_anew():
    # A plan that is out of range makes no step: the next round must.
    for move in TRANSITIONS[Ending.OUT_OF_RANGE]:
        assert move.by_log
    # An iteration that went round in circles must not go on with what it remembers.
    for move in TRANSITIONS[Ending.CIRCLING]:
        assert move.anew and move.at_rest


@pytest.mark.parametrize("at_end", [False, True])
@pytest.mark.parametrize("ending", Ending)
def test_the_traced_table_is_the_table(ending, at_end):
    traced = jax.jit(move_after)(jnp.asarray(ending, jnp.int32), jnp.asarray(at_end))
    assert tuple(bool(flag) for flag in traced) == tuple(TRANSITIONS[ending][at_end])


ENDS = {
    "successful": (dict(epsilon=0.3), otjax.Sinkhorn(), None, RESULTS.successful),
    "max_steps_reached": (dict(epsilon=0.3), otjax.Sinkhorn(), 2, RESULTS.max_steps_reached),
    "no steps at all": (dict(epsilon=0.3), otjax.Sinkhorn(), 0, RESULTS.max_steps_reached),
    "stagnated": (
        dict(epsilon=0.3, dtype=jnp.float32),
        otjax.Sinkhorn(tolerance=1e-9),
        None,
        RESULTS.stagnated,
    ),
    "unresolved_epsilon": (
        dict(epsilon=1e-9, dtype=jnp.float32),
        otjax.Sinkhorn(),
        None,
        RESULTS.unresolved_epsilon,
    ),
}


@pytest.mark.parametrize("name", ENDS)
def test_ways_to_end(name):
    arguments, solver, max_steps, result = ENDS[name]
    problem = helpers.make_problem(**arguments)
    solution = otjax.solve(problem, solver, max_steps=max_steps, throw=False)
    assert solution.result == result
    assert jnp.isfinite(solution.value) and jnp.all(jnp.isfinite(solution.potentials[0]))
    if max_steps is not None:
        assert solution.stats.num_steps == max_steps
    # The error is that of the potentials that are returned, at the epsilon that is returned.
    row, column = solution.marginals
    a, b = solution.problem.a, solution.problem.b
    error = jnp.sum(jnp.abs(row - a)) + jnp.sum(jnp.abs(column - b))
    np.testing.assert_allclose(error, solution.stats.marginal_error, rtol=1e-2, atol=1e-6)


@pytest.mark.parametrize("seed", range(8))
def test_more_than_rounding_allows_is_given_up_soon(seed):
    # An error of exactly zero may be seen on the way, which no look confirms.
    problem = helpers.make_problem(seed, epsilon=0.05, dtype=jnp.float32)
    solution = otjax.solve(problem, otjax.Sinkhorn(tolerance=1e-9), throw=False)
    assert solution.result == RESULTS.stagnated and solution.stats.num_steps < 500


# Without annealing there are not enough steps.
@pytest.mark.parametrize("solver", [name for name in helpers.SOLVERS if name != "plain"])
def test_an_epsilon_that_rounding_does_not_resolve(solver):
    # The solution is that of the least epsilon which is resolved: nearly unregularised.
    x, y = helpers.points(dtype=jnp.float32)
    exact = otjax.solve_exact(otjax.PointCloud(*helpers.points()), gap=1e-6).value
    solve = jax.jit(
        lambda epsilon: otjax.solve(
            otjax.EntropicProblem(otjax.PointCloud(x, y), epsilon=epsilon),
            helpers.SOLVERS[solver](),
            throw=False,
        )
    )
    for epsilon in (1e-8, 1e-12, 1e-30):
        solution = solve(jnp.float32(epsilon))
        assert solution.result in (RESULTS.unresolved_epsilon, RESULTS.max_steps_reached)
        assert epsilon < solution.problem.epsilon < 1e-3
        np.testing.assert_allclose(solution.value, exact, rtol=2e-2)


def test_few_frames_lie_between_the_door_and_the_formula(monkeypatch):
    # What a reader steps through, and what a traceback shows.
    from otjax._solver._absorbed import Alternating

    stacks = []
    near = Alternating.near

    def noting(self, absorbed, g):
        frames = [frame.name for frame in traceback.extract_stack() if "/otjax/_" in frame.filename]
        stacks.append(frames)
        return near(self, absorbed, g)

    monkeypatch.setattr(Alternating, "near", noting)
    otjax.solve(helpers.make_problem(n=7, m=6), otjax.Sinkhorn(tolerance=0.1))
    for frames in stacks:
        assert len(frames) + 1 <= 7, frames
        assert "<lambda>" not in frames
