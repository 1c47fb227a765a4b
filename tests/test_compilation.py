"""One trace per shape, no leaks, and an import that costs nothing."""

import gc
import subprocess
import sys

import equinox as eqx
import helpers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import psutil
import pytest

import otjax


def test_one_trace_for_many_training_steps() -> None:
    x, y = helpers.points()
    optimiser = optax.sgd(1e-2)

    @jax.jit
    @eqx.debug.assert_max_traces(max_traces=1)
    def step(x, state, epsilon, rho):
        marginals = otjax.Unbalanced(rho)
        value, gradient = jax.value_and_grad(
            lambda x: otjax.sinkhorn_divergence(x, y, epsilon=epsilon, marginals=marginals)
        )(x)
        updates, state = optimiser.update(gradient, state)
        return optax.apply_updates(x, updates), state, value

    state, values = optimiser.init(x), []
    for k in range(20):
        x, state, value = step(x, state, 0.5 / (1 + k), 1.0 + k)
        values.append(value)
    assert np.all(np.isfinite(values))


def test_fresh_equal_objects_and_new_numbers_do_not_retrace() -> None:
    traces = 0

    def cost(x, y):
        nonlocal traces
        traces += 1
        return jnp.sum((x - y) ** 2)

    x, y = helpers.points()
    counts = []
    for k in range(4):
        cloud = otjax.PointCloud(x + k, y, cost=cost)
        problem = otjax.EntropicProblem(cloud, epsilon=0.3 + k, marginals=otjax.Unbalanced(1.0 + k))
        annealing = otjax.GeometricAnnealing(factor=0.5 - 0.1 * k)
        solver = otjax.Sinkhorn(tolerance=10.0 ** -(4 + k), annealing=annealing)
        otjax.solve(problem, solver, max_steps=1000 + k)
        counts.append(traces)
    # The shape check of the constructor alone looks at the cost again.
    per_call = np.diff(counts)
    assert per_call[0] == per_call[-1] and per_call[0] < counts[0]
    assert per_call[0] <= 1


@pytest.mark.slow
def test_live_memory_does_not_grow() -> None:
    x, y = helpers.points(dtype=jnp.float32)
    step = jax.jit(
        lambda x: x - 0.1 * jax.grad(lambda x: otjax.sinkhorn_divergence(x, y, epsilon=1.0))(x)
    )

    def run(num_steps, x):
        for _ in range(num_steps):
            x = step(x)
        x.block_until_ready()
        gc.collect()
        return x, len(jax.live_arrays()), psutil.Process().memory_info().rss

    x, arrays_before, rss_before = run(50, x)
    x, arrays_after, rss_after = run(1000, x)
    assert arrays_after <= arrays_before
    assert rss_after - rss_before < 20e6


def test_memory_of_a_gradient_does_not_depend_on_the_steps() -> None:
    x, y = helpers.points(n=200, m=200)

    def temporary(max_steps: int) -> int:
        def loss(x):
            problem = otjax.EntropicProblem(otjax.PointCloud(x, y), epsilon=0.1)
            solution = otjax.solve(problem, max_steps=max_steps, throw=False)
            return solution.value + jnp.sum(solution.potentials[0] ** 2)

        return jax.jit(jax.grad(loss)).lower(x).compile().memory_analysis().temp_size_in_bytes

    assert temporary(10) == temporary(100_000)


def test_unrolled_memory_does_depend_on_the_steps() -> None:
    """The counterpart, so that the test above could fail."""
    x, y = helpers.points(n=200, m=200)

    def temporary(num_steps: int) -> int:
        def loss(x):
            problem = otjax.EntropicProblem(otjax.PointCloud(x, y), epsilon=0.1)
            adjoint = otjax.UnrolledAdjoint(num_steps)
            solution = otjax.solve(problem, adjoint=adjoint, throw=False)
            return jnp.sum(solution.potentials[0] ** 2)

        return jax.jit(jax.grad(loss)).lower(x).compile().memory_analysis().temp_size_in_bytes

    assert temporary(100) > 2 * temporary(10)


@pytest.mark.parametrize("code", ["import otjax", "import otjax; otjax.Sinkhorn"])
def test_import_initialises_no_device(code: str) -> None:
    environment = {"JAX_PLATFORMS": "no_such_platform", "PATH": "", "HOME": "."}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_import_adds_little_to_equinox() -> None:
    def modules(package: str) -> set[str]:
        code = f"import {package}, sys; print(' '.join(sys.modules))"
        output = subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True, text=True
        ).stdout
        return {name.partition(".")[0] for name in output.split()}

    added = modules("otjax") - modules("equinox")
    assert "otjax" in added and "lineax" in added
    assert not added & {"matplotlib", "sklearn", "ot", "scipy", "pandas", "torch"}


def _streamed(x, y):
    streamed = otjax.PointCloud(x, y, engine=otjax.Streamed())
    solution = otjax.solve(otjax.EntropicProblem(streamed, epsilon=0.1), throw=False)
    return solution.value, solution.potentials, solution.stats.num_steps


@pytest.mark.parametrize(
    "function",
    [
        pytest.param(
            jax.value_and_grad(otjax.sinkhorn_divergence, argnums=(0, 1)),
            marks=pytest.mark.slow,
            id="divergence and gradient",
        ),
        pytest.param(_streamed, id="streamed"),
    ],
)
def test_a_program_may_be_exported_for_any_number_of_points(function, unchecked):
    sizes = jax.export.symbolic_shape("n,m")
    points = (jax.ShapeDtypeStruct((size, 2), "float32") for size in sizes)
    program = jax.export.export(jax.jit(function))(*points)
    for n, m in ((12, 7), (1, 5)):
        rng = np.random.default_rng(n)
        x, y = (jnp.asarray(rng.normal(size=(size, 2)), jnp.float32) for size in (n, m))
        for out, expected in zip(
            jax.tree.leaves(program.call(x, y)), jax.tree.leaves(function(x, y)), strict=True
        ):
            np.testing.assert_allclose(out, expected, rtol=1e-3, atol=1e-3)
