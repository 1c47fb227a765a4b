"""Memory is foretold by shapes, as the compiler counts it, and what cannot fit is refused."""

import jax
import jax.numpy as jnp
import pytest

import otjax


def problem(engine, n=1000, m=1500, d=3):
    cloud = otjax.PointCloud(
        jnp.zeros((n, d), jnp.float32), jnp.ones((m, d), jnp.float32), engine=engine
    )
    return otjax.EntropicProblem(cloud, epsilon=0.1)


@pytest.mark.parametrize(
    ("engine", "sizes"),
    [
        (otjax.Dense(), (1000, 1500)),
        (otjax.Streamed(), (1000, 1500)),
        (otjax.Streamed(), (1000, 20_000, 64)),  # larger blocks
        (otjax.Streamed(), (20_000, 20_000)),  # cells
    ],
)
def test_it_is_what_the_compiler_counts(engine, sizes):
    """Of a gradient too, and never less than half of it."""
    given = problem(engine, *sizes)
    needed = otjax.memory_needed(given)
    value = lambda problem: otjax.solve(problem, throw=False).value

    def counted(function):
        return jax.jit(function).lower(given).compile().memory_analysis()

    solve, gradient = (counted(f).temp_size_in_bytes for f in (value, jax.grad(value)))
    assert 0.5 * solve <= needed.solve <= 3 * solve
    assert 0.5 * gradient <= needed.gradient <= 3 * gradient
    assert needed.device > 2**28


def test_it_grows_with_what_is_held_alone():
    dense, streamed = (
        otjax.memory_needed(problem(engine, 200_000, 100_000))
        for engine in (otjax.Dense(), otjax.Streamed())
    )
    assert dense.solve > 3 * 4 * 200_000 * 100_000 > 500 * streamed.gradient
    t = jnp.linspace(0, 1, 512, dtype=jnp.float32)
    grid = otjax.memory_needed(otjax.EntropicProblem(otjax.Grid((t, t))))
    assert grid.gradient < 2**28 < 4 * 512**4


def test_what_cannot_fit_is_refused_before_it_is_tried(unchecked):
    large = problem(otjax.Dense(), 3_000_000, 3_000_000)
    for solve in (otjax.solve, jax.jit(lambda problem: otjax.solve(problem).value)):
        with pytest.raises(ValueError, match=r"GiB.*Streamed"):
            solve(large)
    with pytest.raises(ValueError, match="`problem`"):
        otjax.memory_needed(large.geometry)


def test_the_device_decides(monkeypatch):
    small = problem(otjax.Dense(), 100, 100)
    assert otjax.solve(small, throw=False).value.shape == ()
    monkeypatch.setattr("otjax._memory.device_memory", lambda: 100 * 100 * 4)
    with pytest.raises(ValueError, match="memory"):
        otjax.solve(small, throw=False)
