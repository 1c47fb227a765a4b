"""Steps per second of flow matching in the plane, and the share of the coupling in a step.

    python benchmarks/flow_speed.py [--batch 256] [--steps 500] [--quick] [--output FILE]

Eight Gaussians to moons, both from pools of samples; a perceptron of three hidden layers of 64 with
SELU, Adam. otjax runs its steps as one scan; torchcfm, where it and PyTorch are installed, as its
own tutorial has them, with its independent and its exact coupling. The share of a coupling is what
a step takes longer than with random pairs, in the same library. `squared_displacement` is the mean
squared length of the pairs of each coupling, against the same of random ones: what the coupling is
worth. Then steps of one-step generators along drifts, of 1024 samples in 64 dimensions.
"""

import datetime
import json
import math
import pathlib
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import equinox as eqx
import jax
import jax.lax as lax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import tyro
from accelerator import describe_device, versions
from flow_published import Field, TUTORIAL
from gpu.flows import drifts
from gpu.problems import QUICK as QUICK_SCALE
from jaxtyping import Array

import otjax
from otjax import flow


@dataclass(frozen=True)
class Options:
    """How much is timed."""

    batch: int = 256
    """Pairs of a step, and samples of each side in a plan."""
    steps: int = 500
    """Of one measurement."""
    repeats: int = 5
    """Measurements, of which the median counts."""
    points: int = 2048
    """Of the data that the semidiscrete coupling knows."""
    output: pathlib.Path | None = None
    """The JSON file; by default benchmarks/results/flow_speed_<device>.json."""
    quick: bool = False
    """Few steps: does it run?"""


QUICK = {"steps": 2, "repeats": 1, "points": 64, "batch": 32}
POOL = 50_000


def pools() -> tuple[np.ndarray, np.ndarray]:
    draw0, draw1 = TUTORIAL
    return np.asarray(draw0(jr.key(0), POOL)), np.asarray(draw1(jr.key(1), POOL)[0])


def seconds(run: Callable[[], Any], options: Options) -> float:
    """Of one step: the median over measurements, after one that is not counted."""
    run()
    times = []
    for _ in range(options.repeats):
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    return statistics.median(times) / options.steps


# otjax


def ours(options: Options) -> Iterator[tuple[str, float, float]]:
    """Couplings, seconds of a step, and the squared displacement of their pairs."""
    starts, ends = map(jnp.asarray, pools())
    problem = otjax.EntropicProblem(
        otjax.PointCloud(starts[: options.points], ends[: options.points]),
        epsilon=otjax.Relative(0.003),
    )
    potential = otjax.solve(problem, throw=False)
    data = ends[: options.points]
    # As near to the least cost as one-to-one pairs get, which a finer plan does not better.
    plan = flow.Minibatch(otjax.Sinkhorn(tolerance=3e-3), epsilon=0.005, draw=flow.Assignment())
    for name, coupling, points in (
        ("independent", flow.Independent(), None),
        ("minibatch", plan, None),
        ("semidiscrete", flow.Semidiscrete(potential, epsilon=0.0), data),
    ):

        def sides(key: Array, points=points) -> tuple[Array, Array]:
            i, j = jr.randint(key, (2, options.batch), 0, POOL)
            return starts[i], ends[j] if points is None else points

        yield name, *timed_scan(coupling, sides, options)


def timed_scan(
    coupling: flow.AbstractCoupling,
    sides: Callable[[Array], tuple[Array, Array]],
    options: Options,
) -> tuple[float, float]:
    optimiser = optax.adam(1e-3)
    arrays, static = eqx.partition(Field(64, 3, jr.key(0)), eqx.is_array)

    def loss(arrays: Any, key: Array) -> Array:
        key_sides, key_loss = jr.split(key)
        return flow.velocity_loss(
            eqx.combine(arrays, static), key_loss, *sides(key_sides),
            coupling=coupling, interpolant=flow.Linear(0.1),
        )  # fmt: skip

    def step(state: Any, key: Array) -> tuple[Any, Array]:
        arrays, moments = state
        value, gradient = jax.value_and_grad(loss)(arrays, key)
        updates, moments = optimiser.update(gradient, moments)
        return (optax.apply_updates(arrays, updates), moments), value

    run = jax.jit(lambda state, key: lax.scan(step, state, jr.split(key, options.steps)))
    state = arrays, optimiser.init(arrays)
    each = seconds(lambda: jax.block_until_ready(run(state, jr.key(2))), options)

    @jax.jit
    def displacement(key: Array) -> Array:
        x0, x1 = sides(key)
        pairs = coupling.pairs(key, x0, x1)
        return jnp.mean(jnp.sum(jnp.square(x0[pairs.i] - x1[pairs.j]), axis=1))

    return each, float(np.mean([displacement(key) for key in jr.split(jr.key(3), 20)]))


# torchcfm


def theirs(options: Options) -> Iterator[tuple[str, float, float]]:
    """The same of torchcfm; nothing where it is not installed."""
    try:
        import torch  # pyright: ignore[reportMissingImports]
        from torchcfm.conditional_flow_matching import (  # pyright: ignore[reportMissingImports]
            ConditionalFlowMatcher,
            ExactOptimalTransportConditionalFlowMatcher,
        )
    except ImportError as error:
        print(f"torchcfm is left out: {error}")
        return
    torch.manual_seed(0)
    starts, ends = map(torch.tensor, pools())
    for name, matcher in (
        ("torchcfm, independent", ConditionalFlowMatcher(sigma=0.1)),
        ("torchcfm, exact", ExactOptimalTransportConditionalFlowMatcher(sigma=0.1)),
    ):
        layers = [torch.nn.Linear(3, 64), torch.nn.SELU()]
        for _ in range(2):
            layers += [torch.nn.Linear(64, 64), torch.nn.SELU()]
        model = torch.nn.Sequential(*layers, torch.nn.Linear(64, 2))
        optimiser = torch.optim.Adam(model.parameters(), 1e-3)

        def located(matcher=matcher) -> tuple:
            i, j = torch.randint(POOL, (2, options.batch))
            return matcher.sample_location_and_conditional_flow(starts[i], ends[j])

        def run(model=model, optimiser=optimiser, located=located) -> None:
            for _ in range(options.steps):
                optimiser.zero_grad()
                t, x, velocity = located()
                guess = model(torch.cat([x, t[:, None]], dim=1))
                torch.mean((guess - velocity) ** 2).backward()
                optimiser.step()

        each = seconds(run, options)
        lengths = [float((located()[2] ** 2).sum(dim=1).mean()) for _ in range(20)]
        yield name, each, statistics.mean(lengths)


def main(options: Options) -> None:
    if options.quick:
        options = replace(options, **QUICK)
    device = describe_device()
    here = pathlib.Path(__file__).parent / "results"
    path = options.output or here / f"flow_speed_{device['slug']}.json"
    records = []
    for library in (ours, theirs):
        alone = math.nan  # the first of each: random pairs
        for name, each, displacement in library(options):
            alone = each if math.isnan(alone) else alone
            records.append(
                {
                    "coupling": name,
                    "steps_per_second": 1 / each,
                    "share_of_the_coupling": max(1 - alone / each, 0.0),
                    "squared_displacement": displacement,
                }
            )
            print(json.dumps(records[-1]), flush=True)
    size = (64, 8) if options.quick else (1024, 64)
    steps = [
        {"drift": record["name"], "seconds": record["run_s"]}
        for record in drifts(QUICK_SCALE._replace(drift=size, repeats=options.repeats))
    ]
    print("\n".join(map(json.dumps, steps)))
    report = {
        "device": device,
        "versions": versions(),
        "date": str(datetime.date.today()),
        "batch": options.batch,
        "steps": options.steps,
        "repeats": options.repeats,
        "points": options.points,
        "records": records,
        "drifts": steps,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n")
    print(f"written to {path}")


if __name__ == "__main__":
    main(tyro.cli(Options))
