"""Where the time of otjax goes: its passes over the matrix, counted and timed by kind."""

import collections
import statistics
import time
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx

import otjax
from otjax._operators import register

from .contestants import otjax_default
from .problems import load, Problem, Row, Sources


KINDS = (
    "log-sum-exp of rows",
    "log-sum-exp of columns",
    "plan made",
    "product",
    "product, transposed",
)


class Tally:
    """Counts what runs, not what is traced."""

    def __init__(self):
        self.counts: collections.Counter[str] = collections.Counter()

    def note(self, kind: str) -> None:
        jax.debug.callback(lambda: self.counts.update([kind]))


class CountedGeometry(otjax.AbstractGeometry):
    """A geometry that counts its uses."""

    inner: otjax.AbstractGeometry
    tally: Tally = eqx.field(static=True)
    transposed: bool = eqx.field(static=True)

    @property
    def shape(self):
        return self.inner.shape

    @property
    def dtype(self):
        return self.inner.dtype

    @property
    def T(self):
        return CountedGeometry(self.inner.T, self.tally, not self.transposed)

    def softmin(self, h, epsilon):
        self.tally.note(KINDS[self.transposed])
        return self.inner.softmin(h, epsilon)

    def plan(self, f, g, epsilon):
        self.tally.note("plan made")
        return CountedPlan(self.inner.plan(f, g, epsilon), self.tally, self.transposed)

    def mean_cost(self, a, b):
        return self.inner.mean_cost(a, b)

    def prepare(self, a, b):
        prepared, finite = self.inner.prepare(a, b)
        return CountedGeometry(prepared, self.tally, self.transposed), finite


@register
class CountedPlan(lx.AbstractLinearOperator):
    """A plan that counts its products."""

    inner: lx.AbstractLinearOperator
    tally: Tally = eqx.field(static=True)
    transposed: bool = eqx.field(static=True)

    def mv(self, vector):
        self.tally.note(KINDS[3 + self.transposed])
        return self.inner.mv(vector)

    def as_matrix(self):
        return self.inner.as_matrix()

    def transpose(self):
        return CountedPlan(self.inner.transpose(), self.tally, not self.transposed)

    def in_structure(self):
        return self.inner.in_structure()

    def out_structure(self):
        return self.inner.out_structure()


def counts(problem: Problem, tolerance: float) -> tuple[dict[str, int], Any]:
    """How often each pass runs in a solve, and the solution."""
    tally = Tally()
    x, y, a, b, epsilon = (jnp.asarray(array, problem.x.dtype) for array in problem)
    geometry = CountedGeometry(otjax.PointCloud(x, y), tally, False)
    entropic = otjax.EntropicProblem(geometry, a, b, epsilon=epsilon)
    solver = otjax_default(tolerance, entropic)
    solution = jax.block_until_ready(otjax.solve(entropic, solver, throw=False))
    jax.effects_barrier()
    return {kind: tally.counts[kind] for kind in KINDS}, solution


def median_time(function: Callable[..., Any], *arguments: Any) -> float:
    """Seconds of a jitted function, after a first run."""
    jax.block_until_ready(function(*arguments))
    times: list[float] = []
    while len(times) < 5 or (sum(times) < 0.2 and len(times) < 100):
        begin = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


# A pass is timed inside of a loop of so many, as a solver runs it, without the time of a call.
_LOOP = 10


def pass_time(run: Callable[[Any, Any], Any], static: Any, vector: Any) -> float:
    """Seconds of `run(static, vector)` inside of a compiled loop."""

    @jax.jit
    def loop(static, vector):
        def body(_, carry):
            # Each pass waits for the last one: none is hoisted out or merged.
            output = run(static, vector + 0 * carry)
            return jax.tree.leaves(output)[0].ravel()[0]

        return jax.lax.fori_loop(0, _LOOP, body, jnp.zeros((), vector.dtype))

    return median_time(loop, static, vector) / _LOOP


def times(problem: Problem, solution: Any) -> dict[str, float]:
    """Seconds of each pass at the solution, and of making the costs."""
    x, y, a, b, epsilon = (jnp.asarray(array, problem.x.dtype) for array in problem)
    f, g = solution.potentials

    @jax.jit
    def prepared(x, y):
        return otjax.PointCloud(x, y).prepare(a, b)[0]

    geometry = prepared(x, y)
    density = jax.jit(lambda geometry: geometry.plan(f, g, epsilon))(geometry)
    return {
        "costs made": median_time(prepared, x, y),
        KINDS[0]: pass_time(lambda geometry, g: geometry.softmin(g, epsilon), geometry, g),
        KINDS[1]: pass_time(lambda geometry, f: geometry.T.softmin(f, epsilon), geometry, f),
        KINDS[2]: plan_time(geometry, f, g, epsilon),
        KINDS[3]: pass_time(lambda density, b: density.mv(b), density, b),
        KINDS[4]: pass_time(lambda density, a: density.mv(a), density.T, a),
    }


def plan_time(geometry: Any, f: Any, g: Any, epsilon: Any) -> float:
    """Seconds to make a plan, which must be written to memory."""
    return median_time(jax.jit(lambda geometry: geometry.plan(f, g, epsilon)), geometry)


def stages(problem: Problem, tolerance: float) -> tuple[dict[str, float], float]:
    """Seconds to trace, lower and compile a solve; and seconds of a run."""

    def solve(x, y, a, b, epsilon):
        entropic = otjax.EntropicProblem(otjax.PointCloud(x, y), a, b, epsilon=epsilon)
        solution = otjax.solve(entropic, otjax_default(tolerance, entropic), throw=False)
        return solution.potentials, solution.value

    arrays = [jnp.asarray(array, problem.x.dtype) for array in problem]
    function = jax.jit(solve)
    taken = {}
    begin = time.perf_counter()
    traced = function.trace(*arrays)
    taken["trace"] = time.perf_counter() - begin
    begin = time.perf_counter()
    lowered = traced.lower()
    taken["lower"] = time.perf_counter() - begin
    begin = time.perf_counter()
    compiled = lowered.compile()
    taken["compile"] = time.perf_counter() - begin
    return taken, median_time(compiled, *arrays)


def table(row: Row, sources: Sources) -> str:
    """Where the time of the default solver goes in a row."""
    problem = load(row, sources)
    compilation, whole = stages(problem, row.target)
    how_often, solution = counts(problem, row.target)
    each = times(problem, solution)
    spent = {"costs made": 1, **how_often}
    lines = [
        f"### {row.name}",
        "",
        f"{1e3 * whole:.3g} ms, {int(solution.stats.num_steps)} steps, error "
        f"{float(solution.stats.marginal_error):.1e}; to trace, lower and compile: "
        + ", ".join(f"{seconds:.2f} s" for seconds in compilation.values()),
        "",
        "| pass | number | ms each | ms | share |",
        "| --- | --- | --- | --- | --- |",
    ]
    total = 0.0
    for kind, number in spent.items():
        seconds = number * each[kind]
        total += seconds
        lines.append(
            f"| {kind} | {number} | {1e3 * each[kind]:.3g} | {1e3 * seconds:.3g} | "
            f"{seconds / whole:.0%} |"
        )
    rest = whole - total
    lines.append(f"| everything else | | | {1e3 * rest:.3g} | {rest / whole:.0%} |")
    return "\n".join([*lines, ""])


def show(chosen: list[Row], sources: Sources) -> None:
    """Prints the table of every row that is not a batch."""
    jax.config.update("jax_enable_x64", True)
    for row in chosen:
        if row.data != "batch":
            print(table(row, sources), flush=True)
