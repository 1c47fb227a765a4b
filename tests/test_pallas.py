"""Kernels for NVIDIA GPUs, on a CPU: their numbers in interpret mode against float64, and that they
lower to CUDA. Sizes are odd, so that the last block of each side is padded."""

import contextlib
import json
import pathlib
import subprocess
import sys

import chex
import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.sharding import AbstractDevice, AbstractMesh, use_abstract_mesh

import otjax
from otjax import _pallas, _small
from otjax._pallas import _blocks, _primitives, DISTANCE, Profile, SQUARED
from otjax._solver import _history


N, M = 21, 133
BOTH = pytest.mark.parametrize("profile", [SQUARED, DISTANCE], ids=["squared", "distance"])


def clouds(d, profile, offset=0.0, epsilon=0.05):
    """Points, potentials that nearly solve a problem, and epsilon in units of the mean cost. The
    third row and the fourth column have no mass."""
    random = np.random.default_rng(d)
    x = (offset + random.normal(size=(N, d)) / np.sqrt(d)).astype(np.float32)
    y = (offset + 0.3 / np.sqrt(d) + random.normal(size=(M, d)) / np.sqrt(d)).astype(np.float32)
    cost = costs(x, y, profile)
    epsilon = np.float32(epsilon * np.mean(cost))
    h = (0.3 * epsilon * random.normal(size=M)).astype(np.float32)
    h[3] = -np.inf
    f = softmin_64(cost, h, epsilon).astype(np.float32)
    f[2] = -np.inf
    return (x, y, f, h, epsilon), cost


def costs(x, y, profile):
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    return np.sum(np.square(x[:, None] - y[None]), axis=2) ** profile.power


def softmin_64(cost, h, epsilon):
    scores = (np.asarray(h, np.float64) - cost) / float(epsilon)
    top = np.max(scores, axis=1, keepdims=True)
    return -float(epsilon) * (np.log(np.sum(np.exp(scores - top), axis=1)) + top[:, 0])


def plan_64(cost, f, h, epsilon):
    f, h = np.asarray(f, np.float64), np.asarray(h, np.float64)
    return np.exp((f[:, None] + h[None, :] - cost) / float(epsilon))


def vectors(k, m=M):
    return np.random.default_rng(k).normal(size=(m, k)).astype(np.float32)


def run(function, *args, **static):
    """The result in float64, compiled in interpret mode; what comes out must be float32."""
    out = jax.jit(lambda *args: function(*args, interpret=True, **static))(*args)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(out))
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), out)


def error(got, cost, args, columns):
    """Of a product, relative to the product of the absolute values."""
    matrix = plan_64(cost, *args[2:])
    size = matrix @ np.abs(columns, dtype=np.float64)
    assert got.shape == size.shape
    np.testing.assert_array_equal(got[2], 0)  # the row without mass
    return np.max(np.abs(got - matrix @ columns.astype(np.float64)) / np.maximum(size, 1e-30))


# The numbers.


@BOTH
@pytest.mark.parametrize("d", [1, 2, 3, 8, 64, 96, 784])
def test_softmin(d, profile):
    (x, y, _, h, epsilon), cost = clouds(d, profile)
    got = run(_pallas.softmin, x, y, h, epsilon, profile=profile)
    np.testing.assert_allclose(got, softmin_64(cost, h, epsilon), rtol=0, atol=1e-5 * epsilon)


@pytest.mark.parametrize(
    ("d", "k", "profile"),
    [(d, 1, SQUARED) for d in (1, 2, 3, 8, 64, 96, 784)]
    + [(3, 1, DISTANCE), (96, 1, DISTANCE)]
    + [(1, 3, DISTANCE), (3, 3, SQUARED), (64, 3, DISTANCE), (784, 3, DISTANCE)]
    + [(2, 66, SQUARED), (8, 66, DISTANCE), (64, 66, SQUARED), (784, 66, DISTANCE)]
    + [(3, 200, SQUARED)],  # in two chunks
    ids=str,
)
def test_apply(d, k, profile):
    args, cost = clouds(d, profile)
    columns = vectors(k)
    got = run(_pallas.apply, *args, columns, profile=profile)
    assert error(got, cost, args, columns) < 1e-5


@pytest.mark.parametrize("d", [3, 20])
def test_other_powers_of_the_distance(d):
    args, cost = clouds(d, Profile(0.75))
    columns = vectors(1)
    got = run(_pallas.apply, *args, columns, profile=Profile(0.75))
    assert error(got, cost, args, columns) < 1e-5


def test_a_power_must_be_positive():
    with pytest.raises(ValueError, match="`power` must be positive, got 0.0"):
        Profile(0.0)


@pytest.mark.parametrize("d", [3, 64])
def test_points_far_from_the_origin(d):
    args, cost = clouds(d, SQUARED, offset=1000.0)
    columns = vectors(1)
    got = run(_pallas.apply, *args, columns, profile=SQUARED)
    assert error(got, cost, args, columns) < 1e-5


@BOTH
@pytest.mark.parametrize("d", [3, 64])
def test_a_tiny_epsilon(d, profile):
    # Exponents of 1e5, in float32: what is left of their fraction is the relative error.
    (x, y, f, h, epsilon), cost = clouds(d, profile, epsilon=1e-5)
    got = run(_pallas.softmin, x, y, h, epsilon, profile=profile)
    np.testing.assert_allclose(got, softmin_64(cost, h, epsilon), rtol=1e-5, atol=0)
    columns = vectors(1)
    got = run(_pallas.apply, x, y, f, h, epsilon, columns, profile=profile)
    assert np.isfinite(got).all()
    assert error(got, cost, (x, y, f, h, epsilon), columns) < 0.2


@pytest.mark.parametrize("d", [3, 64, 784])
def test_a_point_is_at_distance_zero_of_itself(d):
    # The root of rounding would be a distance of 3e-4 in place of 0.
    x = (np.random.default_rng(0).normal(size=(N, d)) / np.sqrt(d)).astype(np.float32)
    h, epsilon = np.zeros(N, np.float32), np.float32(1e-3)
    got = run(_pallas.softmin, x, x, h, epsilon, profile=DISTANCE)
    np.testing.assert_allclose(got, 0, atol=1e-6)


@pytest.mark.parametrize("d", [3, 64])
def test_without_any_column_the_softmin_is_infinite(d):
    (x, y, _, h, epsilon), _ = clouds(d, SQUARED)
    got = run(_pallas.softmin, x, y, np.full_like(h, -np.inf), epsilon, profile=SQUARED)
    np.testing.assert_array_equal(got, np.inf)


@pytest.mark.parametrize("k", [1, 20])
def test_a_column_without_mass_has_weight_zero(k):
    args, _ = clouds(3, SQUARED)
    columns = vectors(k)
    expected = run(_pallas.apply, *args, columns, profile=SQUARED)
    columns[3] = 1e30
    got = run(_pallas.apply, *args, columns, profile=SQUARED)
    np.testing.assert_array_equal(got, expected)


# What the numbers are made of.


def test_a_product_of_split_operands_is_one_of_float32():
    random = np.random.default_rng(0)
    a, b = (random.normal(size=(16, 64)).astype(np.float32) for _ in range(2))
    parts = [np.asarray(part, np.float64) for part in _primitives.split(jnp.asarray(a))]
    np.testing.assert_array_equal(sum(parts), a)
    halves = (_primitives.split(jnp.asarray(factor)) for factor in (a, b))
    got = np.asarray(_primitives.product(*halves, (1, 1)), np.float64)
    a, b = a.astype(np.float64), b.astype(np.float64)
    np.testing.assert_array_less(np.abs(got - a @ b.T) / (np.abs(a) @ np.abs(b).T), 3e-7)


def test_the_sizes_of_blocks():
    for d in (1, 8, 9, 16, 17, 64, 65, 784, 1024):
        for k in (0, 1, 8, 9, 16, 17, 66, 130, 160, 161, 786):
            blocks = _blocks.apply_blocks(d, 10_000, k) if k else _blocks.softmin_blocks(d, 10_000)
            for size in (blocks.rows, blocks.columns, blocks.unroll, blocks.inner, blocks.warps):
                assert size == _blocks.power_of_two(size)
            sizes, chunks = _blocks.widths(k) if k > _blocks.VECTORS_UP_TO else ((), 0)
            assert all(size == _blocks.power_of_two(size) >= 16 for size in sizes)
            assert sum(sizes) <= 160
            assert k <= sum(sizes) * chunks <= 1.35 * k + 16 or not sizes
            # Three parts of two bytes, of each number that matrix units read.
            rows, columns = 6 * blocks.rows, 6 * blocks.columns
            values = columns * sum(sizes)
            if d <= 8:
                memory = blocks.stages * values
            elif d <= 64:
                d = _blocks.padded_dimension(d, blocks)
                memory = rows * d + blocks.stages * (columns * d + values)
            else:
                memory = values + blocks.stages * (rows + columns) * blocks.inner
            assert memory <= 96 * 1024, (d, k, blocks)


# Batches.


def batch_of(size, *arrays):
    random = np.random.default_rng(size)
    return [
        np.stack([array * np.float32(s) for s in random.uniform(0.9, 1.1, size)])
        for array in arrays
    ]


def test_a_batch_of_problems():
    (x, y, f, h, epsilon), _ = clouds(3, SQUARED)
    x, y, f, h, epsilon, columns = batch_of(3, x, y, f, h, epsilon, vectors(2))
    softmin = jax.vmap(lambda *args: _pallas.softmin(*args, profile=SQUARED, interpret=True))
    apply = jax.vmap(lambda *args: _pallas.apply(*args, profile=SQUARED, interpret=True))
    minima = jax.jit(softmin)(x, y, h, epsilon)
    products = jax.jit(apply)(x, y, f, h, epsilon, columns)
    for i in range(3):
        cost = costs(x[i], y[i], SQUARED)
        expected = softmin_64(cost, h[i], epsilon[i])
        np.testing.assert_allclose(minima[i], expected, rtol=0, atol=1e-5 * epsilon[i])
        args = (x[i], y[i], f[i], h[i], epsilon[i])
        assert error(np.asarray(products[i], np.float64), cost, args, columns[i]) < 1e-5


def grids(function, *args):
    """The grids of all kernels."""

    def visit(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name == "pallas_call":
                yield equation.params["grid_mapping"].grid
                continue
            for value in equation.params.values():
                inner = getattr(value, "jaxpr", value)
                if hasattr(inner, "eqns"):
                    yield from visit(inner)

    return list(visit(jax.make_jaxpr(function)(*args).jaxpr))


@pytest.mark.parametrize("problems", ["one", "outer", "inner"])
def test_a_batch_of_columns_is_more_columns(problems):
    (x, y, f, h, epsilon), _ = clouds(3, SQUARED)
    columns = np.stack([vectors(2), vectors(2)[::-1], np.abs(vectors(2))])
    apply = lambda *args: _pallas.apply(*args, profile=SQUARED, interpret=True)
    by_columns = (None, None, None, None, None, 0)
    by_problems = (0, 0, 0, None, None, None)
    if problems == "one":
        x, y, f = x[None], y[None], f[None]
        mapped = lambda x, y, f, *rest: jax.vmap(apply, by_columns)(x[0], y[0], f[0], *rest)[None]
        grid = (2, 1)
    else:
        x, y, f = batch_of(2, x, y, f)
        grid = (2, 2, 1)
        if problems == "outer":
            mapped = jax.vmap(jax.vmap(apply, by_columns), by_problems)
        else:
            mapped = jax.vmap(jax.vmap(apply, by_problems), by_columns, out_axes=1)
    # 21 rows make two programs of 16, and with 6 columns rather than 2 three of 8.
    assert grids(mapped, x, y, f, h, epsilon, columns) == [(*grid[:-2], 3, 1)]
    got = np.asarray(jax.jit(mapped)(x, y, f, h, epsilon, columns), np.float64)
    assert got.shape == (len(x), 3, N, 2)
    for i in range(len(x)):
        for j in range(3):
            args, cost = (x[i], y[i], f[i], h, epsilon), costs(x[i], y[i], SQUARED)
            assert error(got[i, j], cost, args, columns[j]) < 1e-5


# Many small plans.


def plans(n, m):
    """Three plans of masses of which one on each side is zero, and exponents."""
    random = np.random.default_rng(n)
    K = np.exp(-5 * random.uniform(size=(3, n, m)))
    a, b = random.uniform(0.5, 1.5, size=(3, n)), random.uniform(0.5, 1.5, size=(3, m))
    a[:, 1], b[:, 2] = 0, 0
    v = random.uniform(0.5, 1.5, size=(3, m))
    exponents = np.array([[0.5, 0.9], [1.0, 0.7], [0.8, 1.0]])
    arrays = (K, a / a.sum(1, keepdims=True), b / b.sum(1, keepdims=True), v, exponents)
    return tuple(array.astype(np.float32) for array in arrays)


def scale_64(K, a, b, v, num_steps, exponents):
    K, a, b, v = (np.asarray(array, np.float64) for array in (K, a, b, v))
    power_a, power_b = np.asarray(exponents, np.float64).T[..., None]
    v = np.where(b > 0, v, 0)
    u = np.zeros_like(a)
    for _ in range(num_steps):
        u = (a / np.einsum("bij,bj->bi", K, v)) ** power_a
        v = (b / np.einsum("bij,bi->bj", K, u)) ** power_b
    row, column = u * np.einsum("bij,bj->bi", K, v), v * np.einsum("bij,bi->bj", K, u)
    with np.errstate(divide="ignore", invalid="ignore"):
        target_a = np.where(a > 0, a * u ** (1 - 1 / power_a), 0)
        target_b = np.where(b > 0, b * v ** (1 - 1 / power_b), 0)
    return u, v, np.abs(row - target_a).sum(1) + np.abs(column - target_b).sum(1)


@pytest.mark.parametrize(
    ("n", "m", "num_steps"), [(5, 7, 1), (33, 20, 3), (130, 200, 2)]
)  # the last in blocks of rows
@pytest.mark.parametrize("balanced", [True, False])
def test_scalings_of_small_plans(n, m, num_steps, balanced):
    *args, exponents = plans(n, m)
    static = {} if balanced else {"exponents": jnp.asarray(exponents)}
    u, v, errors = run(_pallas.scale, *args, num_steps=num_steps, **static)
    exponents = np.ones((3, 2)) if balanced else exponents
    expected = scale_64(*args, num_steps, exponents)
    np.testing.assert_allclose(u, expected[0], rtol=1e-5)
    np.testing.assert_allclose(v, expected[1], rtol=1e-5)
    np.testing.assert_allclose(errors, expected[2], rtol=1e-4, atol=1e-6)
    assert not u[:, 1].any()
    assert not v[:, 2].any()


def test_a_batch_of_batches_of_small_plans():
    args = [np.stack([array, array[::-1]]) for array in plans(5, 7)[:4]]
    mapped = jax.vmap(lambda *args: _pallas.scale(*args, 2, interpret=True))
    got = jax.jit(mapped)(*args)
    for i in range(2):
        expected = scale_64(*(array[i] for array in args), 2, np.ones((3, 2)))
        np.testing.assert_allclose(got[0][i], expected[0], rtol=1e-5)


def test_what_cannot_be_scaled_is_named():
    K, a, b, v = (jnp.asarray(array) for array in plans(5, 7)[:4])
    with pytest.raises(ValueError, match="`num_steps` must be at least 1, got 0"):
        _pallas.scale(K, a, b, v, 0)
    with pytest.raises(ValueError, match=r"`K` must have sides of at most 256, got shape \(1, 300"):
        large = jnp.ones((1, 300, 7), jnp.float32)
        _pallas.scale(large, large[:, :, 0], b[:1], v[:1], 1)


# Matrices.


@pytest.mark.parametrize("d", [2, 8, 64, 784])
def test_squared_distances(d):
    (x, y, *_), cost = clouds(d, SQUARED, offset=3.0)
    got = run(_pallas.squared_distances, x, y)
    np.testing.assert_allclose(got, cost, rtol=0, atol=1e-6 * np.mean(cost) * max(1, 20 / d))
    np.testing.assert_array_equal(np.diag(run(_pallas.squared_distances, x, x)), 0)


# A function by programs, one for each member.


def halvings(x, scale):
    """Halves until below `scale`, by as many steps as it takes; then a sum, or the largest."""
    steps = lambda state: (state[0] / 2, state[1] + 1)
    above = lambda state: jnp.any(state[0] > scale[0])
    x, count = jax.lax.while_loop(above, steps, (x, jnp.zeros((), jnp.int32)))
    last = jax.lax.cond(count % 2 == 0, lambda: jnp.dot(x, x), lambda: jnp.max(jnp.abs(x)))
    return x, count, last + jax.lax.squeeze(jax.lax.slice(x, (1,), (2,)), (0,))


def test_each_member_has_a_program_with_loops_of_its_own():
    x = np.random.default_rng(0).uniform(1, 40, size=(3, 16)).astype(np.float32)
    x[1] *= 8
    scale = np.ones(1, np.float32)
    programs = _pallas.Programs.of(halvings, x[0], scale)
    how = dict(batched=(True, False), warps=1, interpret=True)
    got = jax.jit(lambda x, scale: programs(3, x, scale, **how))(x, scale)
    for i in range(3):
        for one, expected in zip(got, halvings(x[i], scale), strict=True):
            np.testing.assert_allclose(one[i], expected, rtol=1e-6)
            assert one.dtype == expected.dtype
    assert len(set(np.asarray(got[1]))) > 1


def test_what_a_program_cannot_compute_it_leaves_to_others():
    vector = jax.ShapeDtypeStruct((16,), jnp.float32)
    assert _pallas.Programs.of(jnp.sort, vector) is None
    assert _pallas.Programs.of(lambda x: x + 1, jax.ShapeDtypeStruct((15,), jnp.float32)) is None
    assert _pallas.Programs.of(lambda x: x + 1, vector) is not None


def small_batch(n, m):
    """Points, masses of which one is zero, and epsilons so unlike that steps are."""
    random = np.random.default_rng(n)
    x, y = random.normal(size=(3, n, 2)), 0.3 + 0.7 * random.normal(size=(3, m, 2))
    a = np.full(n, 1 / (n - 1))
    a[1] = 0
    return [one.astype(np.float32) for one in (x, y, a, np.array([1.0, 0.2, 0.05]))]


def small_solve(x, y, a, epsilon):
    problem = otjax.EntropicProblem(otjax.PointCloud(x, y), a, epsilon=epsilon)
    solution = otjax.solve(problem, tolerance=1e-3, throw=False)
    return solution.value, (solution.potentials, solution.stats, solution.result)


@pytest.mark.slow
def test_a_batch_of_small_solves_is_one_kernel_and_each_as_if_alone(monkeypatch):
    x, y, a, epsilon = small_batch(13, 21)
    gradient = jax.value_and_grad(small_solve, has_aux=True)
    alone = jax.jit(gradient)
    expected = [alone(x[i], y[i], a, epsilon[i]) for i in range(3)]
    monkeypatch.setattr(_small, "_machine", lambda: _small.Machine("cpu", interpret=True))
    monkeypatch.setattr(_history, "launches_cost", lambda: True)
    jax.clear_caches()
    batched = jax.vmap(gradient, (0, 0, None, 0))
    sizes, compute = [], _pallas.Programs.__call__

    def noting(self, size, *leaves, **options):
        sizes.append(size)
        return compute(self, size, *leaves, **options)

    monkeypatch.setattr(_pallas.Programs, "__call__", noting)
    got = jax.jit(batched)(x, y, a, epsilon)
    assert set(sizes) == {3}
    for i, ((value, (_, stats, result)), by_x) in enumerate(expected):
        (value_i, (_, stats_i, result_i)), by_x_i = jax.tree.map(lambda leaf, i=i: leaf[i], got)
        np.testing.assert_allclose(value_i, value, rtol=1e-4)
        np.testing.assert_allclose(by_x_i, by_x, atol=2e-3)
        assert result_i == result
        assert abs(int(stats_i.num_steps) - int(stats.num_steps)) <= 4
        assert stats_i.marginal_error <= 1e-3
    assert len(set(np.asarray(got[0][1][1].num_steps))) == 3


@pytest.mark.slow
def test_a_batch_of_small_solves_lowers_to_cuda(monkeypatch):
    monkeypatch.setattr(_small, "_machine", lambda: _small.Machine("cuda", interpret=False))
    monkeypatch.setattr(_history, "launches_cost", lambda: True)
    batched = jax.vmap(small_solve, (0, 0, None, 0))
    program = lowered(batched, (3, 14, 2), (3, 22, 2), (14,), (3,))
    assert program.count("xla.gpu.triton") == 1


@pytest.mark.parametrize("memory", [2, 5, 8])
def test_where_launches_cost_the_history_gives_the_same_combinations(memory):
    random = np.random.default_rng(memory)
    both = [kind.empty(memory, jnp.zeros(11)) for kind in (_history.Window, _history.Stacked)]
    for step in range(2 * memory + 1):
        image, residual = jnp.asarray(random.normal(size=(2, 11)))
        forget = jnp.asarray(step == memory)
        both = [history.extended(image, residual, forget) for history in both]
        window, stacked = both
        assert window.count == stacked.count == (step + 1 if step < memory else step - memory)
        if window.count > 0:
            np.testing.assert_allclose(
                window.combination(), stacked.combination(), rtol=1e-9, atol=1e-12
            )


# The way to a GPU.


def lowered(function, *shapes):
    """The program for CUDA, made without such a device; any warning is an error."""
    args = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    context = contextlib.nullcontext()
    if jax.__version_info__ >= (0, 11):
        device = AbstractDevice("NVIDIA H100 80GB HBM3", None, "gpu")
        context = use_abstract_mesh(AbstractMesh((), (), (), abstract_device=device))
    check = export.DisabledSafetyCheck.custom_call("__gpu$xla.gpu.triton")
    with context:
        exported = export.export(jax.jit(function), platforms=["cuda"], disabled_checks=[check])
        return exported(*args).mlir_module()


@BOTH
@pytest.mark.parametrize("d", [1, 3, 64, 96])
def test_softmin_lowers_to_cuda(d, profile):
    function = lambda *args: _pallas.softmin(*args, profile=profile)
    program = lowered(function, (N, d), (M, d), (M,), ())
    assert program.count("xla.gpu.triton") == 1


@pytest.mark.parametrize("k", [1, 3, 66, 200])
@pytest.mark.parametrize(("d", "profile"), [(3, SQUARED), (64, DISTANCE), (784, SQUARED)], ids=str)
def test_apply_lowers_to_cuda(d, k, profile):
    function = lambda *args: _pallas.apply(*args, profile=profile)
    program = lowered(function, (N, d), (M, d), (N,), (M,), (), (M, k))
    assert program.count("xla.gpu.triton") == 1


@pytest.mark.parametrize("d", [6, 64, 784])
def test_squared_distances_lower_to_cuda(d):
    assert lowered(_pallas.squared_distances, (N, d), (M, d)).count("xla.gpu.triton") == 1


def test_batches_lower_to_cuda():
    function = jax.vmap(lambda *args: _pallas.apply(*args, profile=SQUARED))
    program = lowered(function, (2, N, 3), (2, M, 3), (2, N), (2, M), (2,), (2, M, 1))
    assert program.count("xla.gpu.triton") == 1


@pytest.mark.parametrize(("n", "m"), [(5, 7), (128, 128), (256, 256)])
def test_scalings_lower_to_cuda(n, m):
    function = lambda *args: _pallas.scale(*args[:4], 10, exponents=args[4])
    program = lowered(function, (4, n, m), (4, n), (4, m), (4, m), (4, 2))
    assert program.count("xla.gpu.triton") == 1


@pytest.mark.parametrize("d", [2, pytest.param(12, marks=pytest.mark.slow)])
def test_as_an_engine_it_solves_and_differentiates_as_the_held_matrix_does(d):
    x, y = helpers.points(d=d, dtype=jnp.float32)
    a, b = helpers.masses(zeros=True, dtype=jnp.float32)
    v = helpers.points(4, d=d, dtype=jnp.float32)[0]

    def measured(engine):
        def value(x, y):
            cloud = otjax.PointCloud(x, y, engine=engine)
            problem = otjax.EntropicProblem(cloud, a, b, epsilon=jnp.float32(0.5 * d))
            return otjax.solve(problem, tolerance=1e-5, throw=False).value

        gradient = jax.grad(value, argnums=(0, 1))
        return value(x, y), jax.jvp(lambda x: gradient(x, y), (x,), (v,))

    expected = jax.jit(measured, static_argnums=0)(otjax.Dense())
    got = jax.jit(measured, static_argnums=0)(otjax.Pallas(interpret=True))
    chex.assert_trees_all_close(got, expected, rtol=1e-3, atol=1e-4)


def test_as_an_engine_it_says_which_costs_it_knows():
    x, y = helpers.points(dtype=jnp.float32)
    cloud = otjax.PointCloud(x, y, cost=otjax.Cosine(), engine=otjax.Pallas())
    with pytest.raises(ValueError, match="Euclidean"):
        otjax.solve(otjax.EntropicProblem(cloud, epsilon=1.0))


@pytest.mark.slow
def test_elsewhere_the_engine_goes_by_xla():
    # No kernel runs on this device, nor in double precision.
    for dtype in (jnp.float32, jnp.float64):
        x, y = helpers.points(dtype=dtype)
        solve = jax.jit(
            lambda x, y, engine: (
                otjax.solve(
                    otjax.EntropicProblem(otjax.PointCloud(x, y, engine=engine), epsilon=0.5)
                ).value
            ),
            static_argnums=2,
        )
        expected = solve(x, y, otjax.Streamed())
        np.testing.assert_allclose(solve(x, y, otjax.Pallas()), expected, rtol=1e-5)


def test_the_platform_chooses():
    # As a branch that is not for this device, a kernel is traced and not lowered.
    (x, y, _, h, epsilon), cost = clouds(3, SQUARED)
    kernel = lambda *args: _pallas.softmin(*args, profile=SQUARED)
    plain = lambda *args: _pallas.softmin(*args, profile=SQUARED, interpret=True)
    choose = lambda *args: jax.lax.platform_dependent(*args, cuda=kernel, default=plain)
    got = jax.jit(choose)(x, y, h, epsilon)
    np.testing.assert_allclose(got, softmin_64(cost, h, epsilon), rtol=0, atol=1e-5 * epsilon)
    assert lowered(choose, x.shape, y.shape, h.shape, ()).count("xla.gpu.triton") == 1


@pytest.mark.slow
def test_the_benchmark_runs(tmp_path):
    script = pathlib.Path(__file__).parents[1] / "benchmarks" / "pallas_kernels.py"
    output = tmp_path / "kernels.json"
    command = [sys.executable, script, "--quick", "--parts", "d3", "scale", "--output", output]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert finished.returncode == 0, finished.stdout[-2000:] + finished.stderr[-4000:]
    report = json.loads(output.read_text())
    assert report["passed"]
    assert [len(part["records"]) for part in report["parts"].values()] == [7, 3]
