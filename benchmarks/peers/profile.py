"""Where the time of otjax goes: its passes over the matrix, counted and timed by kind."""

import collections
import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

import otjax

from .problems import load, Problem, Row, Sources


COSTS = "costs made"
SOFTMINS = ("log-sum-exp of rows", "log-sum-exp of columns")
MADE = "plan made"
PRODUCTS = ("product", "product, transposed")
SQUARED = ("product with squares", "product with squares, transposed")
# What has this at its end is of plans of float32 in a problem of float64.
SINGLE = ", single"
IN_ORDER = tuple(
    kind + single for single in ("", SINGLE) for kind in (*SOFTMINS, MADE, *PRODUCTS, *SQUARED)
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

    def prepare(self, a, b):
        prepared = self.inner.prepare(a, b)
        geometry = CountedGeometry(prepared.geometry, self.tally, self.transposed)
        return prepared._replace(geometry=geometry)

    def softmin(self, h, epsilon):
        self.tally.note(SOFTMINS[self.transposed])
        return self.inner.softmin(h, epsilon)

    def plan(self, f, g, epsilon, dtype=None):
        single = "" if dtype in (None, self.dtype) else SINGLE
        self.tally.note(MADE + single)
        plan = self.inner.plan(f, g, epsilon, dtype)
        return CountedPlan(plan, self.tally, single, self.transposed)


class CountedPlan(otjax.AbstractPlan):
    """A plan that counts its products, one with several columns as one."""

    inner: otjax.AbstractPlan
    tally: Tally = eqx.field(static=True)
    single: str = eqx.field(static=True)
    transposed: bool = eqx.field(static=True)

    def mv(self, vectors):
        self.tally.note(PRODUCTS[self.transposed] + self.single)
        return self.inner.mv(vectors)

    def squared_mv(self, vector):
        self.tally.note(SQUARED[self.transposed] + self.single)
        return self.inner.squared_mv(vector)

    def as_matrix(self):
        return self.inner.as_matrix()

    @property
    def T(self):
        return CountedPlan(self.inner.T, self.tally, self.single, not self.transposed)


def counts(problem: Problem, tolerance: float) -> tuple[dict[str, int], Any]:
    """How often each pass runs in a solve, and the solution."""
    tally = Tally()
    x, y, a, b, epsilon = (jnp.asarray(array, problem.x.dtype) for array in problem)
    geometry = CountedGeometry(otjax.PointCloud(x, y), tally, False)
    entropic = otjax.EntropicProblem(geometry, a, b, epsilon=epsilon)
    solution = otjax.solve(entropic, tolerance=tolerance, throw=False)
    solution = jax.block_until_ready(solution)
    jax.effects_barrier()
    return {kind: tally.counts[kind] for kind in IN_ORDER if tally.counts[kind]}, solution


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


def times(problem: Problem, solution: Any, kinds: Iterable[str]) -> dict[str, float]:
    """Seconds of each of these passes at the solution, and of making the costs."""
    x, y, a, b, epsilon = (jnp.asarray(array, problem.x.dtype) for array in problem)
    f, g = solution.potentials

    @jax.jit
    def prepared(x, y):
        return otjax.PointCloud(x, y).prepare(a, b).geometry

    geometry = prepared(x, y)

    def time_of(kind: str) -> float:
        dtype = jnp.dtype("float32") if kind.endswith(SINGLE) else geometry.dtype
        kind = kind.removesuffix(SINGLE)
        if kind in SOFTMINS:
            side, h = ((geometry, g), (geometry.T, f))[SOFTMINS.index(kind)]
            return pass_time(lambda geometry, h: geometry.softmin(h, epsilon), side, h)
        made = jax.jit(lambda geometry: geometry.plan(f, g, epsilon, dtype))
        if kind == MADE:
            # It must be written to memory.
            return median_time(made, geometry)
        plan = made(geometry)
        sides = (plan, b.astype(dtype)), (plan.T, a.astype(dtype))
        if kind in PRODUCTS:
            return pass_time(lambda plan, v: plan.mv(v), *sides[PRODUCTS.index(kind)])
        return pass_time(lambda plan, v: plan.squared_mv(v), *sides[SQUARED.index(kind)])

    return {COSTS: median_time(prepared, x, y), **{kind: time_of(kind) for kind in kinds}}


def stages(problem: Problem, tolerance: float) -> tuple[dict[str, float], float]:
    """Seconds to trace, lower and compile a solve; and seconds of a run."""

    def solve(x, y, a, b, epsilon):
        entropic = otjax.EntropicProblem(otjax.PointCloud(x, y), a, b, epsilon=epsilon)
        solution = otjax.solve(entropic, tolerance=tolerance, throw=False)
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
    each = times(problem, solution, how_often)
    spent = {COSTS: 1, **how_often}
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
