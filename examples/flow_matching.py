"""Carries eight Gaussians to two moons by every method of `otjax.flow`, and compares them.

    python examples/flow_matching.py                              # all of them, in turn
    python examples/flow_matching.py --method ot-cfm --steps 1000 # one, minutes
    python examples/flow_matching.py --resume                     # on, bit for bit

| method | what is trained |
| --- | --- |
| `cfm` | a velocity on random pairs, which is 1-rectified flow |
| `ot-cfm` | the same on pairs from the plan of each batch |
| `semidiscrete` | the same on pairs of fresh starts with all of a finite set of ends |
| `rectified-2`, `rectified-3` | the same on pairs that the field before has made |
| `bridge` | the drift of the Schrödinger bridge, on pairs from the entropic plan |
| `light` | the same bridge by a mixture of Gaussians |
| `mean-shift`, `sinkhorn-drift`, `w-flow` | a map that samples in one step, along a drift |

Each method has its directory under the output directory, with `paths.png`, `curves.png` and
`checkpoint.eqx`; `roads.png` has the straight road of the geodesic beside those of velocities;
`table.json` and the table printed compare them. `W2^2` is to points that training
never saw, and its floor is what other points of the moons themselves have. `NPE`, the normalised
path energy, is |path energy - W2^2| / W2^2 with W2 that of the two laws: 0 on the paths of optimal
transport. `straightness` is 0 on straight ones. Needs `otjax[examples]`.
"""

import dataclasses
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from common import (
    check_options,
    draw_curves,
    fail,
    make_directory,
    Options,
    report_device,
    run_script,
    start,
    train,
)
from evaluation import exact_w2, print_table
from jaxtyping import Array, Float
from matplotlib.figure import Figure

import otjax
from otjax import flow
from otjax.gan import AbstractObjective, BridgeMatching, Drifting, Ends, FlowMatching, Trainer


Method = Literal[
    "cfm",
    "ot-cfm",
    "semidiscrete",
    "rectified-2",
    "rectified-3",
    "bridge",
    "light",
    "mean-shift",
    "sinkhorn-drift",
    "w-flow",
]
METHODS: tuple[Method, ...] = get_args(Method)
TEACHERS: dict[Method, Method] = {"rectified-2": "cfm", "rectified-3": "rectified-2"}

NUM_EVALUATED = 2000  # points of each cloud that is evaluated
NUM_DRAWN = 200  # paths in the picture
FRAMES = 20  # times at which they are drawn


@dataclasses.dataclass(frozen=True)
class Config(Options):
    """From eight Gaussians to two moons, by one or several methods in turn."""

    method: tuple[Method, ...] = METHODS  # in this order
    steps: int = 3000  # of each method
    batch: int = 256  # pairs that a step is taken on
    plan_batch: int = 512  # samples of each side in a plan
    epsilon: float = 0.01  # of the plans, and of the drifts, relative to the mean cost
    sigma: float = 1.0  # the diffusion of the bridges
    pairs: int = 10_000  # of rectified flow; also the points of `semidiscrete`, a quarter
    components: int = 50  # of the mixture
    width: int = 64  # of the three hidden layers
    learning_rate: float = 2e-3  # it decays to zero by a cosine
    integration_steps: int = 50  # of Heun's method, two evaluations each
    output: Path = Path("outputs/flow_matching")  # directory for all that is written


class Field(eqx.Module):
    """A velocity or a drift: of a time and a point in the plane."""

    layers: eqx.nn.MLP

    def __call__(self, t: Float[Array, ""], x: Float[Array, "2"]) -> Float[Array, "2"]:
        return self.layers(jnp.append(x, t))


class Map(eqx.Module):
    """A map of the plane: samples in one step."""

    layers: eqx.nn.MLP

    def __call__(self, x: Float[Array, "2"]) -> Float[Array, "2"]:
        return x + self.layers(x)


class LightMatching(AbstractObjective):
    """A light bridge, from latents to data."""

    def loss(self, model: Any, critic: Any, real: Array, latents: Any, *, key: Array) -> Any:
        return flow.light_bridge_loss(model, latents(key), real), {}


class Task(NamedTuple):
    """What a method stands for."""

    objective: AbstractObjective
    model: Callable[[Array], Any]  # made with a key
    data: Any
    batch: int
    names: tuple[str, ...]  # of the metrics to plot
    kind: Literal["velocity", "drift", "map"]


def draw_gaussian(key: Array) -> Float[Array, "2"]:
    """A point of eight Gaussians on a circle of radius 5."""
    key_mode, key_noise = jr.split(key)
    angle = jr.randint(key_mode, (), 0, 8) * (math.pi / 4)
    return 5 * jnp.stack([jnp.cos(angle), jnp.sin(angle)]) + 0.1**0.25 * jr.normal(key_noise, (2,))


def draw_moons(num: int, key: Array) -> Float[Array, "num 2"]:
    """Two half circles that reach into each other, as scikit-learn has them, times 3 minus 1."""
    key_side, key_angle, key_noise = jr.split(key, 3)
    inner = jr.bernoulli(key_side, shape=(num,))
    angles = jr.uniform(key_angle, (num,), maxval=math.pi)
    x = jnp.where(inner, 1 - jnp.cos(angles), jnp.cos(angles))
    y = jnp.where(inner, 0.5 - jnp.sin(angles), jnp.sin(angles))
    return 3 * (jnp.stack([x, y], axis=1) + 0.2 * jr.normal(key_noise, (num, 2))) - 1


def draw_gaussians(num: int, key: Array) -> Float[Array, "num 2"]:
    return jax.vmap(draw_gaussian)(jr.split(key, num))


def fixed_key(config: Config, use: int) -> Array:
    """A key that no training uses: that of what is made before it, or drawn after it."""
    return jr.fold_in(jr.fold_in(jr.key(config.seed), 1), use)


def make_task(config: Config, method: Method, teacher: Any) -> Task:
    moons = lambda num: jax.tree_util.Partial(draw_moons, num)
    layers = lambda inputs, key: eqx.nn.MLP(inputs, 2, config.width, 3, jax.nn.selu, key=key)
    field, one_step = (lambda key: Field(layers(3, key))), (lambda key: Map(layers(2, key)))
    plan = flow.Minibatch(epsilon=config.epsilon, draw=flow.Assignment(), num_pairs=config.batch)
    told = ("generator_loss", "relative_cost", "marginal_error")
    drifting = ("size", "w2", "unconverged")
    x0, x1 = (draw(1000, fixed_key(config, 2)) for draw in (draw_gaussians, draw_moons))
    spread = float(jnp.sum(jnp.var(x0, axis=0)) + jnp.sum(jnp.var(x1, axis=0)))
    match method:
        case "cfm":
            objective = FlowMatching()
            return Task(objective, field, moons(config.batch), config.batch, told, "velocity")
        case "ot-cfm":
            data = moons(config.plan_batch)
            return Task(FlowMatching(plan), field, data, config.plan_batch, told, "velocity")
        case "semidiscrete":
            num = max(config.pairs // 4, 2)
            starts, ends = (
                draw_gaussians(num, fixed_key(config, 3)),
                moons(num)(fixed_key(config, 4)),
            )
            problem = otjax.EntropicProblem(
                otjax.PointCloud(starts, ends), epsilon=config.epsilon * spread
            )
            coupling = flow.Semidiscrete(otjax.solve(problem, throw=False), epsilon=0.0)
            objective = FlowMatching(coupling, num_starts=config.batch)
            return Task(objective, field, ends, num, told, "velocity")
        case "rectified-2" | "rectified-3":
            starts = draw_gaussians(config.pairs, fixed_key(config, 5))
            z0, z1 = flow.reflow(teacher, starts, num_steps=config.integration_steps)
            objective = FlowMatching(flow.Paired())
            return Task(objective, field, Ends(z1, z0), config.batch, told, "velocity")
        case "bridge":
            epsilon = 2 * config.sigma**2 / spread  # a plan is blurred as the bridge is
            coupling = flow.Minibatch(epsilon=epsilon, num_pairs=config.batch)
            objective = BridgeMatching(flow.BrownianBridge(config.sigma), coupling)
            data = moons(config.plan_batch)
            return Task(objective, field, data, config.plan_batch, told, "drift")
        case "light":
            means = draw_moons(config.components, fixed_key(config, 6))
            mixture = lambda key: flow.LightBridge(means, sigma=config.sigma)
            data = moons(config.plan_batch)
            names = ("generator_loss",)
            return Task(LightMatching(), mixture, data, config.plan_batch, names, "drift")
        case "mean-shift":
            drift = flow.MeanShift()
        case "sinkhorn-drift":
            drift = flow.SinkhornDrift(config.epsilon * spread)
        case "w-flow":
            drift = flow.SplitSinkhornDrift(config.epsilon * spread)
    return Task(Drifting(drift), one_step, moons(config.batch), config.batch, drifting, "map")


def make_trainer(config: Config, task: Task) -> Trainer:
    schedule = optax.cosine_decay_schedule(config.learning_rate, config.steps)
    return Trainer(
        task.objective,
        generator_optimiser=optax.adam(schedule),
        latent=draw_gaussian,
        batch_size=task.batch,
        n_critic=0,
        ema_decay=0.99,
    )


class Ways(NamedTuple):
    """How points have gone, and at what price."""

    ends: Float[Array, "n 2"]
    energy: float
    straightness: float
    evaluations: int


def ways_of(model: Any, kind: str, x0: Array, config: Config) -> dict[str, Ways]:
    """The ways of a method: of a velocity in many steps and in one."""
    steps = config.integration_steps
    if kind == "map":
        ends = jax.vmap(model)(x0)
        energy = float(jnp.mean(jnp.sum(jnp.square(ends - x0), axis=1)))
        return {"1 step": Ways(ends, energy, 0.0, 1)}
    if kind == "drift":
        drift = model.drift if isinstance(model, flow.LightBridge) else model
        moved = flow.diffuse(
            drift, fixed_key(config, 7), x0, sigma=config.sigma, num_steps=2 * steps
        )
        ways = Ways(moved.samples, float(moved.path_energy), math.nan, 2 * steps)
        return {f"{2 * steps} steps": ways}
    found = {}
    for solver, num in ((flow.Heun(), steps), (flow.Euler(), 1)):
        end = flow.integrate(model, x0, solver=solver, num_steps=num)
        numbers = float(end.path_energy), float(end.straightness), int(end.num_evaluations)
        found[f"{num} step{'s' if num > 1 else ''}"] = Ways(end.samples, *numbers)
    return found


def evaluate(models: dict[str, tuple[Any, str]], config: Config) -> dict[str, dict[str, float]]:
    x0 = draw_gaussians(NUM_EVALUATED, fixed_key(config, 8))
    ends, others = (np.asarray(draw_moons(NUM_EVALUATED, fixed_key(config, k))) for k in (9, 10))
    distance, nan = exact_w2(np.asarray(x0), ends), math.nan
    floor = {"W2^2": exact_w2(others, ends), "NPE": nan, "straightness": nan, "evaluations": nan}
    table = {"other moons (floor)": floor}
    for name, (model, kind) in models.items():
        for how, way in ways_of(model, kind, x0, config).items():
            table[f"{name}, {how}"] = {
                "W2^2": exact_w2(np.asarray(way.ends), ends),
                "NPE": abs(way.energy - distance) / distance,
                "straightness": way.straightness,
                "evaluations": way.evaluations,
            }
    return table


def way_points(model: Any, kind: str, x: Array, config: Config) -> np.ndarray:
    """Where points are on the way, an axis of times before theirs."""
    points = [np.asarray(x)]
    if kind == "velocity":
        for k in range(FRAMES):
            piece = {"start": k / FRAMES, "end": (k + 1) / FRAMES, "num_steps": 3}
            x = flow.integrate(model, x, **piece).samples
            points.append(np.asarray(x))
    else:
        points += [np.asarray(way.ends) for way in ways_of(model, kind, x, config).values()]
    return np.stack(points)


def geodesic(x: Array, config: Config) -> np.ndarray:
    """The same of the geodesic between the starts and as many points of the moons."""
    ends = draw_moons(len(x), fixed_key(config, 12))
    matched = otjax.assignment(otjax.SqEuclidean().pairwise(x, ends))
    return np.stack([matched.interpolate(x, ends, t)[0] for t in (0.0, 1.0)])


def draw_paths(panels: dict[str, np.ndarray], path: Path) -> None:
    """Ways in grey, with their starts and ends, side by side."""
    figure = Figure(figsize=(6 * len(panels), 6), layout="tight")
    axes = figure.subplots(1, len(panels), squeeze=False, sharex=True, sharey=True)[0]
    for axis, (title, lines) in zip(axes, panels.items(), strict=True):
        axis.plot(lines[..., 0], lines[..., 1], color="grey", linewidth=0.4, alpha=0.6)
        for cloud, label in ((lines[0], "start"), (lines[-1], "end")):
            axis.scatter(*cloud.T, s=6, label=label, zorder=3)
        axis.set(aspect="equal", title=title)
    axes[0].legend()
    figure.savefig(path, dpi=120)


def drawn(config: Config) -> Float[Array, "n 2"]:
    """The starts of the ways in the pictures."""
    return draw_gaussians(NUM_DRAWN, fixed_key(config, 11))


def check(config: Config) -> None:
    check_options(config)
    if config.batch > config.plan_batch:
        fail(f"--batch must be at most --plan-batch={config.plan_batch}, got {config.batch}.")
    if config.batch > config.pairs or config.batch % 2:
        fail(f"--batch must be even, and at most --pairs={config.pairs}, got {config.batch}.")
    if not config.method or len(set(config.method)) < len(config.method):
        fail("--method must name one method at least, and each but once.")
    for place, method in enumerate(config.method):
        teacher = TEACHERS.get(method)
        if teacher is not None and teacher not in config.method[:place]:
            fail(f"--method {method} needs {teacher} before it, whose pairs it is trained on.")
    checkpoints = [config.output / method / "checkpoint.eqx" for method in config.method]
    if config.resume and not any(path.exists() for path in checkpoints):
        fail(f"--resume: there is no checkpoint at {checkpoints[0]}; run once without --resume.")


def run(config: Config, method: Method, teacher: Any) -> tuple[Any, str] | None:
    """Trains by one method and draws; the model, or None if it was stopped before the end."""
    task = make_task(config, method, teacher)
    trainer = make_trainer(config, task)
    directory = config.output / method
    path = directory / "checkpoint.eqx"

    def make():
        key_model, key_steps = jr.split(jr.key(config.seed))
        return trainer.init(task.model(key_model), key=key_steps, data=task.data)

    # Of several methods in turn an interruption leaves the last ones without a checkpoint.
    progress = start(config, path if config.resume and path.exists() else None, task.names, make)
    make_directory(directory)
    progress = train(config, lambda step: trainer, progress, task.data, path, task.names)
    if int(progress.state.step) < config.steps:
        print(f"{method}: stopped after step {progress.state.step}; --resume goes on.")
        return None
    draw_curves(progress.curves, task.names, directory / "curves.png")
    ways = way_points(progress.state.ema, task.kind, drawn(config), config)
    draw_paths({method: ways}, directory / "paths.png")
    return progress.state.ema, task.kind


def main(config: Config) -> None:
    check(config)
    make_directory(config.output)
    report_device()
    models: dict[str, tuple[Any, str]] = {}
    seconds = {}
    for method in config.method:
        begin = time.perf_counter()
        teacher = models.get(TEACHERS.get(method, ""), (None, ""))[0]
        model = run(config, method, teacher)
        seconds[method] = time.perf_counter() - begin
        if model is None:
            return
        models[method] = model

    x = drawn(config)
    roads = {"geodesic": geodesic(x, config)} | {
        method: way_points(model, kind, x, config)
        for method, (model, kind) in models.items()
        if kind == "velocity"
    }
    draw_paths(roads, config.output / "roads.png")
    table = evaluate(models, config)
    report = {"config": dataclasses.asdict(config), "seconds_of_this_run": seconds, "table": table}
    (config.output / "table.json").write_text(json.dumps(report, default=str, indent=1) + "\n")
    for method, value in seconds.items():
        print(f"{method}: {value:.0f} s, with compilation")
    print(f"{NUM_EVALUATED} points each")
    print_table(table)
    print(f"written to {config.output}")


if __name__ == "__main__":
    run_script(main, Config)
