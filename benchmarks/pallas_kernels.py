"""Correctness, then speed, of the kernels in `otjax/_pallas` on an NVIDIA GPU, into one JSON file.

    python benchmarks/pallas_kernels.py [--quick] [--parts PART ...] [--output FILE]

Takes less than two minutes. Each part is a process with a deadline of its own, so that one that
hangs or crashes takes nothing along; what is done is written after each measurement. `--quick`
rehearses it at tiny sizes, also on a CPU, where kernels are interpreted. Exits with 1 if a number
is wrong or a part did not come to its end.

Everything is float32; what is right is computed in float64 by NumPy, for a sample of rows where the
problem is large.
"""

import argparse
import dataclasses
import datetime
import json
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np


Record = dict[str, Any]

# Of softmins in units of epsilon, of products relative to those of the absolute values. On a CPU,
# which rounds where matrix units cut off, the largest is 8e-6.
LIMIT = 2e-5
# The seconds of each part, in which it starts, compiles and measures.
DEADLINES = {"checks": 36, "d3": 24, "d64": 28, "large": 16, "scale": 13}
# A worker begins nothing in the last seconds of its part.
RESERVE = 4.0


# The problems.


@dataclasses.dataclass
class Problem:
    """Two clouds, potentials, epsilon, and the rows for which float64 is computed."""

    x: np.ndarray
    y: np.ndarray
    h: np.ndarray
    f: np.ndarray
    epsilon: np.float32
    rows: np.ndarray
    cost: np.ndarray  # of those rows

    def softmin(self) -> np.ndarray:
        scores = (self.h.astype(np.float64) - self.cost) / float(self.epsilon)
        top = np.max(scores, axis=1, keepdims=True)
        total = np.sum(np.exp(scores - top), axis=1)
        return -float(self.epsilon) * (np.log(total) + top[:, 0])

    def softmin_error(self, got: Any) -> float:
        got = np.asarray(got, np.float64)[self.rows]
        return float(np.max(np.abs(got - self.softmin())) / self.epsilon)

    def apply_error(self, got: Any, columns: np.ndarray) -> float:
        f, h = self.f[self.rows].astype(np.float64), self.h.astype(np.float64)
        plan = np.exp((f[:, None] + h[None, :] - self.cost) / float(self.epsilon))
        columns = columns.astype(np.float64)
        difference = np.abs(np.asarray(got, np.float64)[self.rows] - plan @ columns)
        return float(np.max(difference / np.maximum(plan @ np.abs(columns), 1e-30)))


def problem(n: int, m: int, d: int, power: float, holes: bool = False) -> Problem:
    """Two Gaussian clouds of variance about 1, of which ten points coincide. With `holes` some
    points have no mass, and the cloud is far from the origin."""
    random = np.random.default_rng(d)
    x = (random.normal(size=(n, d)) / np.sqrt(d)).astype(np.float32)
    y = (0.7 * random.normal(size=(m, d)) / np.sqrt(d) + 0.3 / np.sqrt(d)).astype(np.float32)
    if holes:
        x, y = x + np.float32(100), y + np.float32(100)
    y[:10] = x[:10]
    rows = np.concatenate([np.arange(10), random.choice(np.arange(10, n), 50, replace=False)])
    X, Y = x[rows].astype(np.float64), y.astype(np.float64)
    X, Y = X - Y.mean(0), Y - Y.mean(0)
    if d <= 8:
        squares = np.sum(np.square(X[:, None] - Y[None]), axis=2)
    else:
        squares = np.sum(X * X, 1)[:, None] + np.sum(Y * Y, 1)[None] - 2 * X @ Y.T
    squares[np.arange(10), np.arange(10)] = 0
    cost = np.maximum(squares, 0) ** power
    epsilon = np.float32(0.05 * np.mean(cost))
    h = (0.3 * epsilon * random.normal(size=m)).astype(np.float32)
    if holes:
        h[::7] = -np.inf
    one = Problem(x, y, h, np.zeros(n, np.float32), epsilon, rows, cost)
    one.f[rows] = one.softmin()
    if holes:
        one.f[rows[3]] = -np.inf
    return one


def columns_of(one: Problem, k: int) -> np.ndarray:
    """What solvers and gradients apply a plan to: ones, then coordinates."""
    random = np.random.default_rng(k)
    columns = np.concatenate([np.ones_like(one.y[:, :1]), one.y - one.y.mean(0)], axis=1)[:, :k]
    more = random.normal(size=(len(one.y), k - columns.shape[1])).astype(np.float32)
    return np.concatenate([columns, more], axis=1)


# Measurements.


def repeated(function: Callable[..., Any], passes: int) -> Callable[..., Any]:
    """Passes of which each begins when the one before has ended. `function` adds its first
    argument, zero up to rounding, to what may not be taken out of the loop."""
    import jax.lax as lax
    import jax.numpy as jnp

    def run(*args):
        first = function(jnp.zeros((), jnp.float32), *args)
        step = lambda _, out: function(1e-30 * out[(0,) * out.ndim], *args)
        return lax.fori_loop(1, passes, step, first)

    return run


def timed(function: Callable[..., Any], args: tuple[Any, ...], passes: int) -> tuple[Any, Record]:
    """The result, and seconds of compilation and milliseconds of one pass."""
    import jax

    begin = time.perf_counter()
    compiled = jax.jit(repeated(function, passes)).lower(*args).compile()
    compile_s = time.perf_counter() - begin
    out = jax.block_until_ready(compiled(*args))
    runs = []
    for _ in range(3):
        begin = time.perf_counter()
        jax.block_until_ready(compiled(*args))
        runs.append((time.perf_counter() - begin) / passes)
    return out, {"compile_s": compile_s, "passes": passes, "ms": 1e3 * statistics.median(runs)}


def attempt(name: str, measure: Callable[[], Record]) -> Record:
    """A record that says what went wrong, if blocks do not fit or a result is wrong."""
    try:
        record = measure()
        return {
            "name": name,
            "passed": all(e <= LIMIT for e in record["errors"].values()),
            **record,
        }
    except Exception as error:
        # Not a failure where blocks were only tried.
        return {"name": name, "passed": "tried" in name, "error": repr(error)[:1000]}


def variants(default: Any, others: list[dict[str, int]], quick: bool) -> Iterator[tuple[str, Any]]:
    yield "default", default
    for change in others[:1] if quick else others:
        changes = " ".join(f"{key} {value}" for key, value in change.items())
        yield f"tried {changes}", dataclasses.replace(default, **change)


def reductions(
    n: int, d: int, tried: dict[int, list[dict[str, int]]], rate: float, quick: bool
) -> Iterator[Record]:
    """Times of softmin (`tried[0]`) and of `apply` to k columns (`tried[k]`), at n x n pairs.

    `rate` is a guess at pairs a second, for the number of passes.
    """
    import jax.numpy as jnp

    from otjax._pallas import SQUARED
    from otjax._pallas._apply import apply_with
    from otjax._pallas._blocks import apply_blocks, Setting, softmin_blocks
    from otjax._pallas._softmin import softmin_with

    one = problem(n, n, d, 1.0)
    x, y, h, epsilon = (jnp.asarray(value) for value in (one.x, one.y, one.h, one.epsilon))
    passes = 2 if quick else max(1, min(200, int(0.03 * rate / n**2)))
    interpret = on_cpu()
    for k, others in tried.items():
        # As in a solver the points are the same in each pass, so that XLA prepares them once; at
        # the end they are prepared in each.
        default = apply_blocks(d, n, k) if k else softmin_blocks(d, n)
        columns = columns_of(one, k)
        others = others if k == 0 or not quick else []
        choices = [*variants(default, others, quick), ("default, points vary", default)]
        for which, blocks in choices:
            setting = Setting(SQUARED, blocks, interpret)
            moved = (lambda x, s: x + s) if "vary" in which else (lambda x, s: x)

            def measure(k=k, columns=columns, setting=setting, moved=moved):
                if k == 0:
                    function = lambda s, x, y, h: softmin_with(
                        moved(x, s), y, h + s, epsilon, setting
                    )
                    out, record = timed(function, (x, y, h), passes)
                    one.f = np.asarray(out)
                    errors = {"softmin": one.softmin_error(out)}
                else:
                    function = lambda s, x, y, f, h, columns: apply_with(
                        moved(x, s), y, f, h + s, epsilon, columns, setting
                    )
                    args = (x, y, jnp.asarray(one.f), h, jnp.asarray(columns))
                    out, record = timed(function, args, passes)
                    errors = {"apply": one.apply_error(out, columns)}
                rate = n * n / record["ms"] * 1e3
                blocks = dataclasses.asdict(setting.blocks)
                return {**record, "pairs_per_s": rate, "errors": errors, "blocks": blocks}

            operation = f"apply k={k}" if k else "softmin"
            yield attempt(f"{operation} d={d} n={n}, {which}", measure)


# The parts.


def checks(quick: bool) -> Iterator[Record]:
    """Odd sizes, all ways through the kernels, points without mass, points far away, a batch."""
    import jax
    import jax.numpy as jnp

    from otjax import _pallas

    interpret = on_cpu()
    cases = [(3, 1.0, (1, 5, 66)), (64, 1.0, (1, 66)), (64, 0.5, (1,)), (784, 1.0, (1, 200))]
    cases += [(1, 1.0, (1,)), (3, 0.5, (3,)), (8, 1.0, (10,)), (96, 1.0, (1,)), (784, 0.5, ())]
    for d, power, ks in cases[:2] if quick else cases:
        one = problem(*((61, 77) if quick else (1000, 777)), d, power, holes=True)
        profile = _pallas.Profile(power)

        def measure(one=one, profile=profile, ks=ks):
            @jax.jit
            def run(x, y, f, h, epsilon, columns):
                static = {"profile": profile, "interpret": interpret}
                softmin = _pallas.softmin(x, y, h, epsilon, **static)
                return softmin, [_pallas.apply(x, y, f, h, epsilon, c, **static) for c in columns]

            columns = [columns_of(one, k) for k in ks]
            softmin, products = run(one.x, one.y, one.f, one.h, one.epsilon, columns)
            errors = {
                f"apply k={c.shape[1]}": one.apply_error(p, c)
                for p, c in zip(products, columns, strict=True)
            }
            return {"errors": {"softmin": one.softmin_error(softmin), **errors}}

        yield attempt(f"d={d} power={power:g}", measure)

    def batch():
        one = problem(61, 77, 3, 1.0)
        y, epsilon = jnp.asarray(one.y), jnp.asarray(one.epsilon)
        static = {"profile": _pallas.SQUARED, "interpret": interpret}
        run = jax.vmap(lambda x, h: _pallas.softmin(x, y, h, epsilon, **static))
        got = jax.jit(run)(jnp.stack([one.x, one.x]), jnp.stack([one.h, one.h + one.epsilon]))
        shifted = dataclasses.replace(one, h=np.asarray(one.h + one.epsilon))
        return {"errors": {"0": one.softmin_error(got[0]), "1": shifted.softmin_error(got[1])}}

    yield attempt("batch", batch)
    for n, m in ((5, 7),) if quick else ((5, 7), (128, 128), (200, 130)):
        for exponents in (None, (0.5, 0.9)):
            name = f"scale {n} x {m}, {'balanced' if exponents is None else 'unbalanced'}"
            yield attempt(name, lambda n=n, m=m, e=exponents: small_plans(3, n, m, 5, e, None, 1))


def d3(quick: bool) -> Iterator[Record]:
    tried = {
        0: [{"rows": 16}, {"unroll": 8}, {"columns": 256, "warps": 8, "unroll": 2}],
        1: [{"rows": 8, "unroll": 4}, {"rows": 32, "unroll": 1}],
        5: [{"rows": 4}, {"unroll": 1}],
    }
    yield from reductions(300 if quick else 51_200, 3, tried, 1e12, quick)


PRODUCTS = [{"rows": 128, "warps": 8}, {"stages": 3}, {"columns": 128}]
WIDE = [
    {"columns": 64, "stages": 1},
    {"columns": 64},
    {"rows": 128, "columns": 64, "warps": 8, "stages": 1},
]


def d64(quick: bool) -> Iterator[Record]:
    tried = {0: PRODUCTS, 1: PRODUCTS[:2], 66: WIDE}
    yield from reductions(200 if quick else 10_240, 64, tried, 2e11, quick)


def large(quick: bool) -> Iterator[Record]:
    tried = {0: PRODUCTS[:1], 1: [], 66: WIDE[:1]}
    yield from reductions(200 if quick else 51_200, 64, tried, 2e11, quick)


def scale(quick: bool) -> Iterator[Record]:
    """1024 problems of 128 x 128, a hundred steps."""
    from otjax._pallas._scale import scale_blocks

    sizes = (3, 16, 16, 4) if quick else (1024, 128, 128, 100)
    default = scale_blocks(*sizes[1:3])
    for which, blocks in variants(default, [{"warps": 8}, {"warps": 16}, {"warps": 2}], quick):
        name = f"scale {sizes}, {which}"
        yield attempt(name, lambda b=blocks: small_plans(*sizes, None, b, 2 if quick else 10))
    last = lambda: small_plans(*sizes, (0.9, 0.8), default, 2 if quick else 10)
    yield attempt(f"scale {sizes}, unbalanced", last)


def small_plans(
    batch: int, n: int, m: int, steps: int, exponents: Any, blocks: Any, passes: int
) -> Record:
    """Scalings of plans that are nearly solutions, against float64 for three of them."""
    import jax.numpy as jnp

    from otjax._pallas._scale import scale_blocks, scale_with

    random = np.random.default_rng(n)
    K = np.exp(-3 * random.uniform(size=(batch, n, m)))
    a, b = (random.uniform(0.5, 1.5, size=(batch, size)) for size in (n, m))
    a[:, 1], b[:, 2] = 0, 0
    a, b = (masses / masses.sum(1, keepdims=True) for masses in (a, b))
    K, a, b = (array.astype(np.float32) for array in (K, a, b))
    v = np.ones_like(b)
    powers = None if exponents is None else np.tile(np.float32(exponents), (batch, 1))
    blocks = blocks or scale_blocks(n, m)

    def function(shift, K, a, b, v):
        u, v, error = scale_with(
            K,
            a,
            b,
            v + shift,
            steps,
            None if powers is None else jnp.asarray(powers),
            blocks,
            on_cpu(),
        )
        return jnp.concatenate([u, v, error[:, None]], axis=1)

    out, record = timed(function, tuple(map(jnp.asarray, (K, a, b, v))), passes)
    out = np.asarray(out, np.float64)[:3]
    K, a, b, v = (array[:3].astype(np.float64) for array in (K, a, b, v * (b > 0)))
    power_a, power_b = (1.0, 1.0) if exponents is None else exponents
    for _ in range(steps):
        u = (a / np.einsum("bij,bj->bi", K, v)) ** power_a
        v = (b / np.einsum("bij,bi->bj", K, u)) ** power_b
    expected = np.concatenate([u, v], axis=1)
    largest = np.max(np.abs(out[:, : n + m] - expected) / np.maximum(expected, 1e-30))
    return {**record, "errors": {"scalings": float(largest)}, "blocks": dataclasses.asdict(blocks)}


PARTS = {"checks": checks, "d3": d3, "d64": d64, "large": large, "scale": scale}


# Workers, and who waits for them.


def on_cpu() -> bool:
    import jax

    return jax.devices()[0].platform == "cpu"


def work(part: str, quick: bool, output: pathlib.Path, deadline: float) -> None:
    """Runs one part, and writes its records after each."""
    import jax

    report = {"device": jax.devices()[0].device_kind, "jax": jax.__version__, "records": []}
    for record in PARTS[part](quick):
        report["records"].append(record)
        output.write_text(json.dumps(report))
        verdict = "ok    " if record["passed"] else "FAILED"
        shown = {
            key: record[key] for key in ("ms", "pairs_per_s", "errors", "error") if key in record
        }
        print(verdict, record["name"], shown, flush=True)
        if time.time() > deadline - RESERVE:
            return
    report["finished"] = True
    output.write_text(json.dumps(report))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run?")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("pallas_kernels.json"))
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--deadline", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.worker, options.quick, options.output, options.deadline)
        return 0

    begin = time.time()
    report: Record = {"quick": options.quick, "parts": {}}
    report["date"] = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    partial = options.output.with_suffix(".part.json")
    for part in options.parts:
        partial.unlink(missing_ok=True)
        seconds = DEADLINES[part] * (5 if options.quick else 1)
        command = [sys.executable, __file__, "--worker", part, "--output", str(partial)]
        command += ["--deadline", str(time.time() + seconds)] + ["--quick"] * options.quick
        started = time.time()
        try:
            code = subprocess.run(command, timeout=seconds).returncode
        except subprocess.TimeoutExpired:
            code = "stopped at its deadline"
        done = json.loads(partial.read_text()) if partial.exists() else {"records": []}
        report["parts"][part] = {**done, "exit": code, "seconds": time.time() - started}
        report["seconds"] = time.time() - begin
        records = [record for part in report["parts"].values() for record in part["records"]]
        finished = all(part.get("finished") for part in report["parts"].values())
        report["passed"] = finished and all(record["passed"] for record in records)
        options.output.write_text(json.dumps(report, indent=1) + "\n")
    partial.unlink(missing_ok=True)
    print(f"{'passed' if report['passed'] else 'FAILED'}; wrote {options.output}")
    return 0 if report["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
