"""What tests/test_devices.py runs in processes of their own, on eight devices of the host."""

import math
import os
import re
import sys


os.environ["XLA_FLAGS"] = (
    f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
)

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

import otjax


jax.config.update("jax_enable_x64", True)
DEVICES = 8
COLLECTIVE = re.compile(
    r"= (.*?) (?:all-gather|all-reduce|all-to-all|reduce-scatter|collective-permute)(?:-start)?\("
)


def mesh_of(kind: AxisType):
    return jax.make_mesh((DEVICES,), ("i",), axis_types=(kind,))


def clouds(n: int, m: int, dtype=jnp.float64):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(n, 2)), 1.1 * rng.normal(size=(m, 2)) + 0.5
    a = rng.uniform(0.5, 1.5, n)
    return tuple(jnp.asarray(v, dtype) for v in (x, y, a / a.sum()))


def largest_message(compiled) -> int:
    """The number of entries of the largest array that a program sends."""
    sizes = [0]
    for shapes in COLLECTIVE.findall(compiled.as_text()):
        for shape in re.findall(r"\[([\d,]*)\]", shapes):
            sizes.append(math.prod(int(size) for size in shape.split(",") if size))
    return max(sizes)


def outputs(engine, solver=None):
    """Value, gradients, and products of the plan from both sides."""

    def value(x, y, a):
        geometry = otjax.PointCloud(x, y, engine=engine)
        solution = otjax.solve(otjax.EntropicProblem(geometry, a), solver, throw=False)
        products = solution.plan.mv(y[:, 0]), solution.plan.T.mv(x[:, 0])
        return solution.value, products

    return jax.value_and_grad(value, argnums=(0, 1, 2), has_aux=True)


def close(ours, theirs, tolerance=1e-7):
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        one, other = np.asarray(one), np.asarray(other)
        assert np.all(np.abs(one - other) <= tolerance * (1 + np.abs(other).max())), (one, other)


def rows(engine, n: int, m: int, solver=None):
    """One problem over all devices: the numbers of one device, and short messages."""
    given = clouds(n, m)
    want = jax.jit(outputs(engine))(*given)
    sharding = NamedSharding(mesh_of(AxisType.Auto), P("i"))
    spread = jax.device_put(given, sharding)
    compiled = jax.jit(outputs(engine, solver)).lower(*spread).compile()
    close(compiled(*spread), want)
    # Of points, masses, potentials and the history of the acceleration; of no block of the matrix.
    print("largest message:", largest_message(compiled))
    assert largest_message(compiled) <= 6 * max(n, m)


def dense():
    rows(otjax.Dense(), 256, 128)


def streamed():
    rows(otjax.Streamed(16), 256, 128)


def cells():
    """Every device solves for all cells, and then for its rows."""
    rows(otjax.Streamed(16), 256, 128, otjax.CoarseToFine(cells=32))


def pallas():
    """Kernels, which the compiler does not see into: each device makes its rows."""
    given = clouds(64, 32, jnp.float32)
    engine = otjax.Pallas(interpret=True)

    def reductions(x, y, a):
        geometry = otjax.PointCloud(x, y, engine=engine)
        f = geometry.softmin(jnp.zeros(32, jnp.float32), jnp.float32(0.1))
        return f, geometry.plan(f, jnp.zeros(32, jnp.float32), jnp.float32(0.1)).mv(y[:, 1])

    want = jax.jit(reductions)(*given)
    spread = jax.device_put(given, NamedSharding(mesh_of(AxisType.Auto), P("i")))
    compiled = jax.jit(reductions).lower(*spread).compile()
    found = compiled(*spread)
    close(found, want, 1e-5)
    assert all(len(v.addressable_shards) == DEVICES for v in found)
    assert {s.data.shape for v in found for s in v.addressable_shards} == {(8,)}
    assert largest_message(compiled) <= 2 * 64
    batch = jax.jit(jax.vmap(reductions, in_axes=(0, None, None)))
    close(batch(jnp.stack([given[0]] * 2), *given[1:])[0][1], want[0], 1e-5)
    solved = jax.jit(outputs(engine))
    close(solved(*spread), solved(*given), 1e-3)
    # One problem on each device, within `jax.shard_map`, which checks what varies.
    one = lambda *given: jax.tree.map(lambda out: out[None], solved(*(v[0] for v in given)))
    mapped = jax.shard_map(one, mesh=mesh_of(AxisType.Auto), in_specs=P("i"), out_specs=P("i"))
    many = [jnp.stack([v * (1 + 0.1 * k) for k in range(DEVICES)]) for v in given[:2]]
    many.append(jnp.stack([given[2]] * DEVICES))
    ours = jax.jit(mapped)(*many)
    close(jax.tree.map(lambda out: out[3], ours), solved(*(v[3] for v in many)), 1e-5)


def uneven():
    """Rows that eight devices do not divide: points of mass zero change no number."""
    x, y, a = clouds(61, 37)
    sharding = NamedSharding(mesh_of(AxisType.Auto), P("i"))
    (points, masses), (others, weights) = (
        otjax.spread_rows(x, a, sharding=sharding),
        otjax.spread_rows(y, sharding=sharding),
    )
    assert (points.shape, others.shape) == ((64, 2), (40, 2))
    assert len(points.addressable_shards) == DEVICES and points.sharding == sharding

    @jax.jit
    def value(x, y, a, b):
        cost = otjax.solve(otjax.EntropicProblem(otjax.PointCloud(x, y), a, b), throw=False)
        return cost.value, jax.grad(otjax.sinkhorn_divergence)(x, y, a, b, epsilon=0.1)

    want, slope = value(x, y, a, jnp.full(37, 1 / 37))
    found, spread_slope = value(points, others, masses, weights)
    close((found, spread_slope[:61]), (want, slope))
    assert np.all(np.asarray(spread_slope[61:]) == 0)
    same, _ = otjax.spread_rows(x[:56], sharding=sharding)
    assert same.shape == (56, 2)


def memory():
    """Of a held matrix each device has its share."""
    given = clouds(2048, 2048, jnp.float32)
    one = jax.jit(outputs(otjax.Dense())).lower(*given).compile().memory_analysis()
    spread = jax.device_put(given, NamedSharding(mesh_of(AxisType.Auto), P("i")))
    each = jax.jit(outputs(otjax.Dense())).lower(*spread).compile().memory_analysis()
    peak = lambda report: report.temp_size_in_bytes + report.argument_size_in_bytes
    print("bytes:", peak(one), peak(each))
    assert peak(each) <= peak(one) / 6


def explicit():
    """The same on a mesh of explicit axes, by rows and as a batch."""
    loss = jax.value_and_grad(otjax.sinkhorn_divergence, argnums=(0, 1))
    x, y, _ = clouds(32, 24)
    put = lambda value: jax.device_put(value, NamedSharding(mesh_of(AxisType.Explicit), P("i")))
    close(jax.jit(loss)(put(x), put(y)), jax.jit(loss)(x, y))
    xs, ys = (jnp.stack([v + 0.01 * k for k in range(DEVICES)]) for v in (x, 2 * y))
    batch = jax.jit(jax.vmap(otjax.sinkhorn_divergence))
    close(batch(put(xs), put(ys)), batch(xs, ys))


def training():
    """A data-parallel training step within `jax.shard_map`, which checks what varies."""
    mesh = mesh_of(AxisType.Auto)
    x, y, _ = clouds(16, 12)
    xs, ys = (jnp.stack([v + 0.1 * k for k in range(DEVICES)]) for v in (x, y * 2))
    matrix = jnp.asarray([[1.0, 0.2], [0.1, 0.9]])

    divergence = lambda solver: lambda x, y: otjax.sinkhorn_divergence(x, y, solver=solver)
    exact = lambda x, y: (
        otjax.wasserstein(x, y) + otjax.sliced_wasserstein(x, y, key=jax.random.key(0))
    )
    solvers = (otjax.Sinkhorn(), otjax.Adaptive(), otjax.LBFGS())
    for loss in (exact, *map(divergence, solvers)):
        close(*_steps(loss, mesh, matrix, xs, ys), tolerance=1e-6)


def _steps(loss, mesh, matrix, xs, ys):
    """Value and gradient of the mean loss, over devices and on one."""
    mean = lambda matrix, xs, ys: jnp.mean(jax.vmap(loss)(xs @ matrix, ys))

    def on_mesh(matrix, xs, ys):
        # The gradient of what all devices share is summed over them.
        value, slope = jax.value_and_grad(mean)(matrix, xs, ys)
        return jax.lax.pmean(value, "i"), slope / DEVICES

    step = jax.shard_map(on_mesh, mesh=mesh, in_specs=(P(), P("i"), P("i")), out_specs=(P(), P()))
    return jax.jit(step)(matrix, xs, ys), jax.jit(jax.value_and_grad(mean))(matrix, xs, ys)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        globals()[name]()
