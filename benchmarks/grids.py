"""Transport of images on a grid, with its gradient, by otjax, OTT-JAX and GeomLoss.

    .venv/bin/python benchmarks/grids.py             # up to 512 x 512, some minutes
    .venv/bin/python benchmarks/grids.py --quick     # does it run?

Each contestant gets two images, float32, and returns potentials and the gradient of the transport
cost by the first image. Accuracy is matched: the L1 errors of both marginals together, made afresh
from the potentials in float64 by NumPy; of each contestant the loosest setting that reaches the
target is timed. Results go to one JSON file for each machine. Let nothing else run meanwhile.
"""

import argparse
import importlib.util
import json
import pathlib
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from accelerator import describe_device, versions

import otjax


TOLERANCES = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4)
SCALINGS = (0.5, 0.7, 0.9, 0.95, 0.98)


class Images(NamedTuple):
    """Two images of total 1 on the unit square, and an epsilon in squared distance."""

    t: np.ndarray
    a: np.ndarray
    b: np.ndarray
    epsilon: float


def images(size: int, fraction: float) -> Images:
    """Blobs on a faint ground; epsilon is a fraction of the mean cost."""
    t = (np.arange(size) + 0.5) / size
    x, y = np.meshgrid(t, t, indexing="ij")
    rng = np.random.default_rng(0)

    def blobs(number: int) -> np.ndarray:
        places, widths = rng.uniform(0.2, 0.8, (number, 2)), rng.uniform(0.03, 0.12, number)
        image = np.full_like(x, 1e-3)
        for (u, v), w in zip(places, widths, strict=True):
            image += np.exp(-((x - u) ** 2 + (y - v) ** 2) / (2 * w**2))
        return (image / image.sum()).astype(np.float32)

    a, b = blobs(4), blobs(5)
    mean = sum(
        (np.square(t[:, None] - t[None, :]) * np.outer(a.sum(1 - k), b.sum(1 - k))).sum()
        for k in range(2)
    )
    return Images(t.astype(np.float32), a, b, float(fraction * mean))


def marginal_error(problem: Images, f: np.ndarray, g: np.ndarray) -> float:
    """Of the plan a b exp((f + g - C) / epsilon), in float64, one axis at a time."""
    t = problem.t.astype(np.float64)
    cost = np.square(t[:, None] - t[None, :]) / problem.epsilon

    def along(logs: np.ndarray) -> np.ndarray:
        """Log-sum-exps over the first axis, which becomes the last."""
        rows = []
        for row in cost:
            scores = logs - row[:, None]
            top = scores.max(0)
            rows.append(top + np.log(np.exp(scores - top).sum(0)))
        return np.stack(rows, axis=1)

    error = 0.0
    for mine, masses, other, weights in (
        (f, problem.a, g, problem.b),
        (g, problem.b, f, problem.a),
    ):
        masses, weights = masses.astype(np.float64), weights.astype(np.float64)
        logs = along(along(other.astype(np.float64) / problem.epsilon + np.log(weights)))
        error += np.abs(masses * (np.exp(mine / problem.epsilon + logs) - 1)).sum()
    return float(error)


# Potentials f and g in the convention of otjax, and the gradient; a setting is one number.
Run = Callable[[float], Any]
Read = Callable[[Any], Any]


def of_otjax(problem: Images) -> tuple[Run, Read]:
    t, a, b = jnp.asarray(problem.t), jnp.asarray(problem.a.ravel()), jnp.asarray(problem.b.ravel())

    @jax.jit
    def run(a, b, tolerance):
        def value(a):
            transport = otjax.EntropicProblem(otjax.Grid((t, t)), a, b, epsilon=problem.epsilon)
            solution = otjax.solve(transport, tolerance=tolerance, throw=False)
            return solution.value, solution.potentials

        return jax.value_and_grad(value, has_aux=True)(a)

    read = lambda out: tuple(np.asarray(p, np.float64).reshape(problem.a.shape) for p in out[0][1])
    return lambda tolerance: jax.block_until_ready(run(a, b, jnp.float32(tolerance))), read


def of_ott(lse_mode: bool) -> Callable[[Images], tuple[Run, Read]]:
    def make(problem: Images) -> tuple[Run, Read]:
        from ott.geometry import grid  # pyright: ignore[reportMissingImports]
        from ott.problems.linear import linear_problem  # pyright: ignore[reportMissingImports]
        from ott.solvers.linear import sinkhorn  # pyright: ignore[reportMissingImports]

        t, shape = jnp.asarray(problem.t), problem.a.shape
        a, b = jnp.asarray(problem.a.ravel()), jnp.asarray(problem.b.ravel())

        @jax.jit
        def run(a, b, threshold):
            def value(a):
                geometry = grid.Grid(x=[t, t], epsilon=problem.epsilon)
                solver = sinkhorn.Sinkhorn(
                    threshold=threshold, lse_mode=lse_mode, max_iterations=20_000
                )
                out = solver(linear_problem.LinearProblem(geometry, a, b))
                return out.reg_ot_cost, (out.f, out.g)

            return jax.value_and_grad(value, has_aux=True)(a)

        def read(out: Any) -> tuple[np.ndarray, np.ndarray]:
            f, g = (np.asarray(p, np.float64).reshape(shape) for p in out[0][1])
            eps = problem.epsilon
            return f - eps * np.log(problem.a.astype(float)), g - eps * np.log(
                problem.b.astype(float)
            )

        return lambda tolerance: jax.block_until_ready(run(a, b, tolerance)), read

    return make


def of_geomloss(problem: Images) -> tuple[Run, Read]:
    import torch  # pyright: ignore[reportMissingImports]
    from geomloss._legacy.sinkhorn_images import sinkhorn_divergence  # pyright: ignore[reportMissingImports]

    # Its cost is half the squared distance, and its epsilon the blur to the power of two.
    blur = float(np.sqrt(problem.epsilon / 2))
    a, b = (torch.tensor(image[None, None]) for image in (problem.a, problem.b))

    def run(scaling: float) -> Any:
        image = a.clone().requires_grad_(True)
        options = {"p": 2, "blur": blur, "scaling": scaling, "debias": False}
        sinkhorn_divergence(image, b, **options).sum().backward()
        return image.grad, options

    def read(out: Any) -> tuple[np.ndarray, np.ndarray]:
        f, g = sinkhorn_divergence(a, b, potentials=True, **out[1])
        return tuple(2 * p.detach().double().numpy()[0, 0] for p in (f, g))

    return run, read


class Contestant(NamedTuple):
    name: str
    module: str
    make: Callable[[Images], tuple[Run, Read]]
    settings: tuple[float, ...]


CONTESTANTS = (
    Contestant("otjax", "otjax", of_otjax, TOLERANCES),
    Contestant("OTT-JAX, log", "ott", of_ott(True), TOLERANCES),
    Contestant("OTT-JAX, kernel", "ott", of_ott(False), TOLERANCES),
    # Its images need KeOps.
    Contestant("GeomLoss", "pykeops", of_geomloss, SCALINGS),
)


def measured(
    contestant: Contestant, problem: Images, target: float, limit: float
) -> dict[str, Any]:
    """The loosest setting that reaches the target, and its time; or why there is none."""
    if importlib.util.find_spec(contestant.module) is None:
        return {"outcome": f"needs {contestant.module}"}
    best = np.inf
    try:
        run, read = contestant.make(problem)
        run(contestant.settings[0])  # compiles
        for setting in contestant.settings:
            start = time.perf_counter()
            error = marginal_error(problem, *read(run(setting)))
            best = min(best, error) if np.isfinite(error) else best
            if error <= target:
                break
            if time.perf_counter() - start > limit:
                return {"outcome": f"not in {limit:.0f} s", "error": best}
        else:
            return {"outcome": "target not reached", "error": best}
        times = []
        for _ in range(5):
            start = time.perf_counter()
            run(setting)
            times.append(time.perf_counter() - start)
        return {
            "outcome": "reached",
            "setting": setting,
            "error": error,
            "seconds": statistics.median(times),
            "all_seconds": times,
        }
    except Exception as error:  # a contestant that fails is a row too
        return {"outcome": f"{type(error).__name__}: {str(error)[:200]}"}


def main() -> None:
    parser = argparse.ArgumentParser(description="Images on a grid, by three libraries.")
    parser.add_argument("--quick", action="store_true", help="tiny images: does it run?")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 256, 512])
    parser.add_argument("--fractions", type=float, nargs="+", default=[0.05, 0.01, 0.002])
    parser.add_argument("--target", type=float, default=1e-3, help="marginal error")
    parser.add_argument("--limit", type=float, default=120, help="seconds for one run")
    parser.add_argument("--output", type=pathlib.Path)
    options = parser.parse_args()
    sizes, fractions = ([16], [0.05]) if options.quick else (options.sizes, options.fractions)
    device = describe_device()
    beside = pathlib.Path(__file__).parent / f"results/grids_{device['slug']}.json"
    output = options.output or beside
    rows = []
    for size in sizes:
        for fraction in fractions:
            problem = images(size, fraction)
            for contestant in CONTESTANTS:
                row = {"size": size, "fraction": fraction, "contestant": contestant.name}
                row |= measured(contestant, problem, options.target, options.limit)
                rows.append(row)
                print(row, flush=True)
                report = {"device": device, "versions": versions(), "target": options.target}
                output.parent.mkdir(parents=True, exist_ok=True)
                output.write_text(json.dumps(report | {"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
