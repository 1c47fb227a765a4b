"""Correctness, then speed, of otjax on the device that JAX finds, into one JSON file.

    python benchmarks/accelerator.py [--quick] [--parts PART ...] [--output FILE] [--minutes M]

Solves run in float32 on the device; what is right is computed by `host.py` in float64. A timing
carries its number of steps and its marginal error, recomputed on the host too, and a solve that
claims a success which that error belies is a failure. Exits with 1 if a check failed.

A part is a generator of records, registered by `@part`; the parts run in the order of this file.
"""

import argparse
import datetime
import importlib.metadata
import json
import math
import pathlib
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from host import clouds, costs, marginal_error, mean_cost, Truth, truth
from scipy.optimize import linear_sum_assignment

import otjax


Record = dict[str, Any]


class Scale(NamedTuple):
    """How much to do."""

    sizes: tuple[int, ...]
    dimensions: tuple[int, ...]
    epsilons: tuple[float, ...]  # in units of the mean cost
    streamed_size: int
    batch: tuple[int, int]  # problems, points of each
    repeats: int


QUICK = Scale((256,), (2,), (0.05, 0.01), 1000, (16, 32), 1)
CPU = Scale((1024, 4096), (2, 64), (0.05, 0.01, 0.002), 5000, (256, 128), 3)
ACCELERATOR = Scale((1024, 4096), (2, 64), (0.05, 0.01, 0.002), 20000, (256, 128), 7)

# The marginal error that timed solves are asked for.
TOLERANCE = 1e-3
# Timed one after the other; a new solver is one more entry.
SOLVERS: dict[str, otjax.AbstractSolver] = {
    "Sinkhorn": otjax.Sinkhorn(tolerance=TOLERANCE),
    "DualNewton": otjax.DualNewton(tolerance=TOLERANCE),
}
ENGINES: dict[str, otjax.AbstractEngine] = {"dense": otjax.Dense(), "streamed": otjax.Streamed()}
# No timing is repeated once its runs have taken this long together, in seconds.
ENOUGH = 10.0

PARTS: list[Callable[[Scale], Iterator[Record]]] = []


def part(function: Callable[[Scale], Iterator[Record]]) -> Callable[[Scale], Iterator[Record]]:
    """Registers a part."""
    PARTS.append(function)
    return function


def close(name: str, errors: dict[str, float], limits: dict[str, float]) -> Record:
    """A record that passes if each error is within its limit."""
    passed = all(bool(errors[key] <= limits[key]) for key in errors)  # false for NaN
    asked = {key: limits[key] for key in errors}
    return {"name": name, "passed": passed, "errors": errors, "limits": asked}


def relative(got: Any, expected: Any) -> float:
    """The largest deviation, relative to the largest entry expected."""
    got, expected = np.asarray(got, np.float64), np.asarray(expected, np.float64)
    return float(np.max(np.abs(got - expected)) / np.max(np.abs(expected)))


def constrained(rho: float) -> otjax.AbstractMarginal:
    return otjax.Balanced() if math.isinf(rho) else otjax.Unbalanced(rho)


# Correctness.


@part
def precision(scale: Scale) -> Iterator[Record]:
    """Matrix products are those of float32: no TF32, no bfloat16."""
    x, y = clouds(512, 384, 64)
    for offset in (0.0, 100.0):
        x_moved, y_moved = x + np.float32(offset), y + np.float32(offset)
        got = jax.jit(otjax.SqEuclidean().pairwise)(x_moved, y_moved)
        error = {"costs": relative(got, costs(x_moved, y_moved))}
        yield close(f"precision: costs, points at {offset:g}", error, {"costs": 1e-5})
    epsilon = 0.05 * mean_cost(x, y)
    vector = np.random.default_rng(1).normal(size=384).astype(np.float32)

    @eqx.filter_jit
    def products(x, y, vector, engine):
        problem = otjax.EntropicProblem(otjax.PointCloud(x, y, engine=engine), epsilon=epsilon)
        plan = otjax.solve(problem, throw=False).plan
        product = plan.mv(vector)
        return plan.as_matrix(), product, plan.T.mv(product)

    for name, engine in ENGINES.items():
        matrix, product, pulled = products(x, y, vector, engine)
        matrix = np.asarray(matrix, np.float64)
        errors = {
            "mv": relative(product, matrix @ vector),
            "T.mv": relative(pulled, matrix.T @ np.asarray(product, np.float64)),
        }
        yield close(f"precision: plan products, {name}", errors, {"mv": 1e-5, "T.mv": 1e-5})


@part
def solutions(scale: Scale) -> Iterator[Record]:
    """Values, potentials and first derivatives, dense and streamed, balanced and not."""

    @eqx.filter_jit
    def solved(x, y, a, b, epsilon, rho, engine):
        def value(x, a, epsilon, rho):
            geometry = otjax.PointCloud(x, y, engine=engine)
            side = otjax.Balanced() if rho is None else otjax.Unbalanced(rho)
            problem = otjax.EntropicProblem(geometry, a, b, epsilon=epsilon, marginals=side)
            solution = otjax.solve(problem, tolerance=2e-5, throw=False)
            return solution.value, solution

        inputs = (0, 1, 2) if rho is None else (0, 1, 2, 3)
        by, solution = jax.grad(value, argnums=inputs, has_aux=True)(x, a, epsilon, rho)
        return solution.potentials, solution.value, solution.value_linear, by

    limits = {
        "value": 1e-5,
        "value_linear": 1e-4,
        "potentials / epsilon": 2e-2,
        "by x": 1e-3,
        "by a": 1e-3,
        "by epsilon": 1e-3,
        "by rho": 1e-3,
    }
    rng = np.random.default_rng(2)
    for d in (2, 64):
        x, y = clouds(240, 200, d)
        a, b = (w / w.sum() for w in (rng.uniform(0.5, 1.5, 240), rng.uniform(0.5, 1.5, 200)))
        mean = mean_cost(x, y)
        for rho in (math.inf, mean) if d == 2 else (math.inf,):
            for epsilon in (0.05 * mean, 0.01 * mean):
                expected = truth(x, y, a, b, epsilon, rho)
                for name, engine in ENGINES.items():
                    a32, b32 = jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32)
                    traced_rho = None if math.isinf(rho) else jnp.float32(rho)
                    got = solved(x, y, a32, b32, jnp.float32(epsilon), traced_rho, engine)
                    kind = "balanced" if math.isinf(rho) else "unbalanced"
                    title = f"solution: {kind}, d = {d}, epsilon = {epsilon / mean:g}, {name}"
                    yield close(title, _solution_errors(got, expected, a, b, epsilon, rho), limits)


def _solution_errors(got, expected: Truth, a, b, epsilon, rho) -> dict[str, float]:
    (f, g), value, value_linear, (by_x, by_a, by_epsilon, *by_rho) = got
    f, g, by_a = (np.asarray(v, np.float64) for v in (f, g, by_a))
    off_f, off_g, off_a = f - expected.f, g - expected.g, by_a - expected.by_a
    if math.isinf(rho):
        shift = a @ off_f
        off_f, off_g, off_a = off_f - shift, off_g + shift, off_a - a @ off_a
    return {
        "value": relative(value, expected.value),
        "value_linear": relative(value_linear, expected.value_linear),
        "potentials / epsilon": float(max(abs(off_f).max(), abs(off_g).max()) / epsilon),
        "by x": relative(by_x, expected.by_x),
        "by a": float(abs(off_a).max() / np.ptp(expected.by_a)),
        "by epsilon": relative(by_epsilon, expected.by_epsilon),
        **({"by rho": relative(by_rho[0], expected.by_rho)} if by_rho else {}),
    }


@part
def divergence(scale: Scale) -> Iterator[Record]:
    """The Sinkhorn divergence and its gradient."""
    x, y = clouds(150, 120, 2)
    a, b = np.full(150, 1 / 150), np.full(120, 1 / 120)
    epsilon = 0.05 * mean_cost(x, y)
    xy = truth(x, y, a, b, epsilon, math.inf)
    xx = truth(x, x, a, a, epsilon, math.inf)
    yy = truth(y, y, b, b, epsilon, math.inf)
    loss = jax.jit(jax.value_and_grad(lambda x: otjax.sinkhorn_divergence(x, y, epsilon=epsilon)))
    value, by_x = loss(x)
    errors = {
        "value": relative(value, xy.value - 0.5 * (xx.value + yy.value)),
        # Both arguments of the term of x with itself move; by symmetry each counts half.
        "by x": relative(by_x, xy.by_x - xx.by_x),
        "at equality": float(jax.jit(otjax.sinkhorn_divergence)(x, x)),
    }
    yield close("divergence", errors, {"value": 1e-4, "by x": 1e-2, "at equality": 1e-4})


@part
def implicit_derivatives(scale: Scale) -> Iterator[Record]:
    """The derivative of the plan's cost along a direction, in both modes."""
    x, y = clouds(120, 100, 2)
    a, b = np.full(120, 1 / 120), np.full(100, 1 / 100)
    epsilon = 0.05 * mean_cost(x, y)
    direction = np.random.default_rng(3).normal(size=x.shape).astype(np.float32)

    def difference(step: float) -> float:
        ahead, behind = (
            truth(x + sign * step * direction.astype(np.float64), y, a, b, epsilon, math.inf)
            for sign in (1, -1)
        )
        return (ahead.value_linear - behind.value_linear) / (2 * step)

    expected = difference(1e-5)

    @eqx.filter_jit
    def derivatives(x, direction, engine):
        def cost_of_plan(x):
            problem = otjax.EntropicProblem(otjax.PointCloud(x, y, engine=engine), epsilon=epsilon)
            return otjax.solve(problem, tolerance=1e-5, throw=False).value_linear

        _, forward = jax.jvp(cost_of_plan, (x,), (direction,))
        return forward, jnp.sum(jax.grad(cost_of_plan)(x) * direction)

    for name, engine in ENGINES.items():
        forward, reverse = derivatives(x, direction, engine)
        errors = {"forward": relative(forward, expected), "reverse": relative(reverse, expected)}
        yield close(f"implicit derivative, {name}", errors, {"forward": 5e-3, "reverse": 5e-3})


@part
def statuses(scale: Scale) -> Iterator[Record]:
    """Each way to fail has its name, step counts are exact, and all numbers are finite."""
    x, y = (jnp.asarray(cloud) for cloud in clouds(16, 16, 2))
    uniform = jnp.full(16, 1 / 16)
    results = otjax.RESULTS
    cases = {
        "successful": (x, uniform, 1.0, 1000, results.successful),
        "one step": (x, uniform, 0.01, 1, results.max_steps_reached),
        "seven steps": (x, uniform, 0.01, 7, results.max_steps_reached),
        "NaN point": (x.at[0, 0].set(jnp.nan), uniform, 1.0, 1000, results.nonfinite_input),
        "negative mass": (x, uniform.at[0].set(-0.1), 1.0, 1000, results.invalid_mass),
        "unequal masses": (x, 2 * uniform, 1.0, 1000, results.unequal_mass),
        "epsilon of zero": (x, uniform, 0.0, 1000, results.invalid_epsilon),
    }

    @eqx.filter_jit
    def solved(x, a, epsilon, max_steps):
        problem = otjax.EntropicProblem(otjax.PointCloud(x, y), a, epsilon=epsilon)
        return otjax.solve(problem, max_steps=max_steps, throw=False)

    for name, (x, a, epsilon, max_steps, expected) in cases.items():
        solution = solved(x, a, jnp.float32(epsilon), jnp.asarray(max_steps))
        steps = int(solution.stats.num_steps)
        exhausted = expected == results.max_steps_reached
        numbers = (*solution.potentials, solution.value, solution.value_linear)
        yield {
            "name": f"status: {name}",
            "passed": bool(solution.result == expected)
            and all(bool(jnp.all(jnp.isfinite(number))) for number in numbers)
            and (steps == max_steps if exhausted else steps <= max_steps),
            "result": results[solution.result] or "successful",
            "steps": steps,
        }


@part
def absent_points(scale: Scale) -> Iterator[Record]:
    """Points of mass zero, wherever they are, change nothing and have gradient zero."""
    x, y = clouds(60, 50, 2)
    padded = np.concatenate([x, np.full((4, 2), 1e6, np.float32)])
    masses = np.concatenate([np.full(60, 1 / 60), np.zeros(4)]).astype(np.float32)
    loss = jax.jit(
        jax.value_and_grad(
            lambda x, a: otjax.sinkhorn_divergence(x, y, a, epsilon=0.2), argnums=(0, 1)
        )
    )
    value, (by_x, _) = loss(x, masses[:60])
    padded_value, (padded_by_x, by_mass) = loss(padded, masses)
    errors = {
        "value": relative(padded_value, value),
        "by x": relative(padded_by_x[:60], by_x),
        "by absent x": float(jnp.max(jnp.abs(padded_by_x[60:]))),
        "by absent mass": float(jnp.max(jnp.abs(by_mass[60:]))),
    }
    limits = {"value": 1e-4, "by x": 1e-3, "by absent x": 0.0, "by absent mass": 0.0}
    yield close("absent points", errors, limits)


# Speed.


def compiled(function: Callable, *args: Any) -> tuple[Callable, float]:
    """The compiled function, and how long compiling took."""
    begin = time.perf_counter()
    result = jax.jit(function).lower(*args).compile()
    return result, time.perf_counter() - begin


def timed(function: Callable, *args: Any, repeats: int) -> tuple[Any, Record]:
    """The output, and the median time of a few runs after a first one."""
    args = jax.block_until_ready(jax.device_put(args))
    times: list[float] = []
    output = None
    while len(times) <= repeats and sum(times) < ENOUGH:
        begin = time.perf_counter()
        output = jax.block_until_ready(function(*args))
        times.append(time.perf_counter() - begin)
    counted = times[1:] or times
    return output, {"run_s": statistics.median(counted), "runs": len(counted)}


def solve_function(solver: otjax.AbstractSolver, engine: otjax.AbstractEngine | None) -> Callable:
    """A function of points and epsilon to potentials and what the solve says of itself."""

    def solved(x, y, epsilon):
        problem = otjax.EntropicProblem(otjax.PointCloud(x, y, engine=engine), epsilon=epsilon)
        solution = otjax.solve(problem, solver, throw=False)
        return solution.potentials, solution.stats, solution.result

    return solved


def honest(x: np.ndarray, y: np.ndarray, output: Any, epsilon: float) -> Record:
    """What a solve says of itself beside its error in float64: a success must be one."""
    (f, g), stats, result = output
    error = marginal_error(x, y, f, g, epsilon)
    successful = bool(result == otjax.RESULTS.successful)
    return {
        "passed": not successful or error <= 2 * TOLERANCE,
        "result": otjax.RESULTS[result] or "successful",
        "steps": int(stats.num_steps),
        "marginal_error": error,
        "claimed_error": float(stats.marginal_error),
    }


def timed_solves(n: int, d: int, engine: str, scale: Scale) -> Iterator[Record]:
    x, y = clouds(n, n, d)
    mean = mean_cost(x, y)
    for name, solver in SOLVERS.items():
        function, compile_s = compiled(
            solve_function(solver, ENGINES[engine]), x, y, jnp.float32(1)
        )
        for fraction in scale.epsilons:
            epsilon = np.float32(fraction * mean)
            output, times = timed(function, x, y, epsilon, repeats=scale.repeats)
            yield {
                "name": f"solve: {name}, {engine}, n = {n}, d = {d}, epsilon = {fraction:g}",
                "compile_s": compile_s,
                **times,
                **honest(x, y, output, float(epsilon)),
            }


@part
def solve(scale: Scale) -> Iterator[Record]:
    """One solve with the matrix held."""
    for n in scale.sizes:
        for d in scale.dimensions:
            yield from timed_solves(n, d, "dense", scale)


@part
def divergence_gradient(scale: Scale) -> Iterator[Record]:
    """The loss of a training step: the Sinkhorn divergence and its gradient."""
    for n in scale.sizes:
        for d in scale.dimensions:
            x, y = clouds(n, n, d)
            epsilon = np.float32(0.05 * mean_cost(x, y))

            def loss(x, y, epsilon):
                value, solutions = otjax.sinkhorn_divergence(
                    x, y, epsilon=epsilon, tolerance=TOLERANCE, has_aux=True
                )
                xy = solutions.xy
                return value, (xy.potentials, xy.stats, xy.result)

            function, compile_s = compiled(jax.value_and_grad(loss, has_aux=True), x, y, epsilon)
            ((_, output), _), times = timed(function, x, y, epsilon, repeats=scale.repeats)
            yield {
                "name": f"divergence and gradient: n = {n}, d = {d}, epsilon = 0.05",
                "compile_s": compile_s,
                **times,
                **honest(x, y, output, float(epsilon)),
            }


@part
def batch(scale: Scale) -> Iterator[Record]:
    """Many small problems under `jax.vmap`, each with its own status and number of steps."""
    count, n = scale.batch
    pairs = [clouds(n, n, 2, seed=seed) for seed in range(count)]
    x, y = (np.stack(cloud) for cloud in zip(*pairs, strict=True))
    epsilon = np.asarray([0.05 * mean_cost(*pair) for pair in pairs], np.float32)
    for name, solver in SOLVERS.items():
        function, compile_s = compiled(jax.vmap(solve_function(solver, None)), x, y, epsilon)
        (potentials, stats, result), times = timed(function, x, y, epsilon, repeats=scale.repeats)
        successful = np.asarray(result == otjax.RESULTS.successful)
        f, g = potentials
        errors = np.asarray(
            [marginal_error(*pairs[k], f[k], g[k], float(epsilon[k])) for k in range(count)]
        )
        steps = np.asarray(stats.num_steps)
        yield {
            "name": f"batch: {name}, {count} problems of {n} x {n}, d = 2, epsilon = 0.05",
            "compile_s": compile_s,
            **times,
            "passed": bool(np.all(errors[successful] <= 2 * TOLERANCE)),
            "successful": int(successful.sum()),
            "steps": {"mean": float(steps.mean()), "max": int(steps.max())},
            "marginal_error": float(errors.max()),
        }


@part
def streamed_solve(scale: Scale) -> Iterator[Record]:
    """One solve whose matrix never exists."""
    yield from timed_solves(scale.streamed_size, 2, "streamed", scale._replace(epsilons=(0.05,)))


@part
def exact_transport(scale: Scale) -> Iterator[Record]:
    """Unregularised transport: the proven bounds hold the assignment found on the host."""
    n = min(scale.sizes)
    for d in scale.dimensions:
        x, y = clouds(n, n, d)
        matrix = costs(x, y)
        best = float(matrix[linear_sum_assignment(matrix)].mean())

        def solved(x, y):
            solution = otjax.solve_exact(otjax.PointCloud(x, y), gap=1e-2, throw=False)
            return solution.lower, solution.upper, solution.result, solution.stats.num_steps

        function, compile_s = compiled(solved, x, y)
        (lower, upper, result, steps), times = timed(function, x, y, repeats=scale.repeats)
        rounding = 1e-5 * best
        yield {
            "name": f"exact transport: gap 1e-2, n = {n}, d = {d}",
            "compile_s": compile_s,
            **times,
            "passed": float(lower) <= best + rounding and best <= float(upper) + rounding,
            "result": otjax.RESULTS[result] or "successful",
            "steps": int(steps),
            "error": float(upper) / best - 1,
        }


@part
def training_step(scale: Scale) -> Iterator[Record]:
    """One step of WGAN-GP on images: five updates of the critic, one of the generator."""
    size, width = (8, 8) if scale is QUICK else (28, 32)
    generator = otjax.nn.ConvGenerator(64, 1, size, width=width, key=jr.key(0))
    critic = otjax.nn.ConvCritic(1, size, width=width, key=jr.key(1))
    trainer = otjax.gan.Trainer(
        otjax.gan.PenalisedWGAN(),
        generator_optimiser=optax.adam(1e-4),
        critic_optimiser=optax.adam(1e-4),
        latent=64,
        batch_size=64,
    )
    state = trainer.init(generator, critic, key=jr.key(2))
    data = jr.uniform(jr.key(3), (256, 1, size, size))
    begin = time.perf_counter()
    jax.block_until_ready(trainer.step(state, data)[1])
    first = time.perf_counter() - begin
    step = lambda data: trainer.step(state, data)
    (_, metrics), times = timed(step, data, repeats=scale.repeats)
    yield {
        "name": f"training step: WGAN-GP, {size} x {size} images, width {width}, batch 64",
        "compile_s": first,
        **times,
        "passed": bool(metrics["finite"]),
    }


# All of it into one file.


def processor_name() -> str:
    """The processor's name, where the system tells it."""
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    text = cpuinfo.read_text() if cpuinfo.exists() else ""
    named = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return named[1] if named else platform.processor() or platform.machine()


def describe_device() -> dict[str, Any]:
    device = jax.devices()[0]
    kind = processor_name() if device.platform == "cpu" else device.device_kind
    slug = re.sub(r"[^a-z0-9]+", "-", f"{device.platform} {kind}".lower()).strip("-")
    return {"platform": device.platform, "kind": kind, "count": jax.device_count(), "slug": slug}


def versions() -> dict[str, str]:
    packages = ("jax", "jaxlib", "equinox", "lineax", "numpy", "scipy")
    found = {package: importlib.metadata.version(package) for package in packages}
    return {"python": platform.python_version(), "otjax": otjax.__version__, **found}


def run_parts(names: list[str], scale: Scale, deadline: float) -> Iterator[Record]:
    """The records of the parts; a part that raises is a failed record, and the next one runs."""
    for function in (function for function in PARTS if function.__name__ in names):
        if time.perf_counter() > deadline:
            yield {"name": function.__name__, "skipped": "out of time"}
            continue
        try:
            for record in function(scale):
                yield {"part": function.__name__, **record}
                if time.perf_counter() > deadline:
                    yield {"name": function.__name__, "skipped": "the rest, out of time"}
                    break
        except Exception as error:
            yield {"name": function.__name__, "passed": False, "error": repr(error)[:2000]}


def line(record: Record) -> str:
    verdict = {True: "ok", False: "FAILED", None: "skipped"}[record.get("passed")]
    numbers = {**record.get("errors", {}), **record}
    shown = ("run_s", "compile_s", "steps", "marginal_error", "error", "skipped")
    shown = (*shown, *record.get("errors", {}))
    details = [
        f"{key} {numbers[key]:.2g}" if isinstance(numbers[key], float) else f"{key} {numbers[key]}"
        for key in shown
        if key in numbers
    ]
    return f"{verdict:8}{record['name']}: {', '.join(details)}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="small sizes, one repeat")
    names = [function.__name__ for function in PARTS]
    parser.add_argument("--parts", nargs="+", choices=names, default=names, help="default: all")
    parser.add_argument("--output", type=pathlib.Path, help="the JSON file to write")
    parser.add_argument("--minutes", type=float, default=9.0, help="no record begins after this")
    options = parser.parse_args()
    device = describe_device()
    scale = QUICK if options.quick else CPU if device["platform"] == "cpu" else ACCELERATOR
    name = device["slug"] + ("-quick" if options.quick else "") + ".json"
    output = options.output or pathlib.Path(__file__).parent / "results" / name
    print(f"{device['kind']} ({device['platform']}), jax {jax.__version__}", flush=True)

    begin = time.perf_counter()
    records = []
    for record in run_parts(options.parts, scale, begin + 60 * options.minutes):
        records.append(record)
        print(line(record), flush=True)
    passed = all(record.get("passed", True) for record in records)
    report = {
        "device": device,
        "versions": versions(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "scale": scale._asdict(),
        "tolerance": TOLERANCE,
        "seconds": time.perf_counter() - begin,
        "passed": passed,
        "records": records,
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(report, indent=1) + "\n")
    print(f"{'passed' if passed else 'FAILED'}; wrote {output}")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
