"""A batch gives what each of its members gives: on a CPU in turn, elsewhere as a whole."""

import helpers
import jax
import jax.lax as lax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import SOLVERS

import otjax
from otjax._control import in_turn


@pytest.mark.parametrize("name", SOLVERS)
def test_a_batch_as_a_whole_is_a_loop(name):
    """What accelerators do, whatever this machine has: members that are done wait unchanged."""
    solver = SOLVERS[name](tolerance=1e-9)

    def run(epsilon):
        problem, _ = helpers.make_problem(engine="matrix").at(epsilon).prepare()
        return solver.run(problem, None, None)

    epsilons = jnp.array([2.0, 0.3, 0.05])
    whole = jax.jit(jax.vmap(run))(epsilons)
    alone = jax.jit(lambda epsilons: lax.map(run, epsilons))(epsilons)
    assert jnp.all(alone.result == otjax.RESULTS.successful)
    assert jnp.all(whole.result == otjax.RESULTS.successful)
    assert len(set(np.asarray(alone.num_steps))) == 3
    np.testing.assert_allclose(whole.num_steps, alone.num_steps, atol=1, rtol=0.2)
    np.testing.assert_allclose(whole.f, alone.f, rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(whole.g, alone.g, rtol=1e-7, atol=1e-8)


def halvings(x, scale):
    """Halves until below one; the second output tells the number of passes over all of `x`."""
    return lax.while_loop(
        lambda state: jnp.max(state[0]) > scale,
        lambda state: (state[0] / 2, state[1] + 1),
        (x, jnp.zeros((), jnp.int32)),
    )


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="accelerators take the whole batch")
def test_on_a_cpu_each_member_takes_its_own_number_of_passes():
    """Counted from outside, since a batch as a whole masks the passes of those that are done."""
    passes = []

    def counted(x):
        def body(state):
            jax.debug.callback(lambda: passes.append(1))
            return state / 2

        return lax.while_loop(lambda state: jnp.max(state) > 1, body, x)

    batch = jnp.array([[2.0, 1.0], [64.0, 1.0], [4.0, 3.0]])
    out = jax.jit(jax.vmap(lambda x: in_turn(counted, x)()))(batch)
    jax.effects_barrier()
    assert len(passes) == 1 + 6 + 2
    np.testing.assert_array_equal(out, [[1, 0.5], [1, 1 / 64], [1, 0.75]])


def test_batches_of_batches_and_shared_arguments():
    x = jnp.arange(1.0, 25).reshape(3, 4, 2)
    scale = jnp.array([1.0, 2.0, 3.0, 5.0])
    inner = jax.vmap(lambda x, scale: in_turn(halvings, x, scale)(), in_axes=(0, 0))
    halved, counts = jax.jit(jax.vmap(inner, in_axes=(0, None)))(x, scale)
    for i in range(3):
        for j in range(4):
            one, count = halvings(x[i, j], scale[j])
            np.testing.assert_array_equal(halved[i, j], one)
            assert counts[i, j] == count
    assert len(np.unique(counts)) > 3


@pytest.mark.slow
def test_derivatives_of_a_batch_are_those_of_its_members():
    (x, y), (a, b) = helpers.points(), helpers.masses()
    shifts = jnp.array([[0.0, 0.3], [0.5, -0.2], [1.0, 1.0]])

    def value(shift):
        problem = otjax.EntropicProblem(
            otjax.PointCloud(x * (1 + shift[None, :]), y), a, b, epsilon=0.2
        )
        return otjax.solve(problem, otjax.Sinkhorn(tolerance=1e-11)).value

    alone = [jax.grad(value)(shift) for shift in shifts]
    of_members = jax.vmap(jax.grad(value))(shifts)
    of_the_sum = jax.grad(lambda shifts: jnp.sum(jax.vmap(value)(shifts)))(shifts)
    np.testing.assert_allclose(of_members, jnp.stack(alone), rtol=1e-9)
    np.testing.assert_allclose(of_the_sum, jnp.stack(alone), rtol=1e-9)
    hessians = jax.vmap(jax.hessian(value))(shifts)
    np.testing.assert_allclose(hessians[1], jax.hessian(value)(shifts[1]), rtol=1e-6)
