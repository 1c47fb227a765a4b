"""Trains a velocity field that carries eight Gaussians to two moons, and tells how straight it is.

    python examples/flow_matching.py                            # pairs from plans, minutes
    python examples/flow_matching.py --coupling independent
    python examples/flow_matching.py --resume                   # on, bit for bit

Writes `paths.png`, `curves.png`, `table.json` and `checkpoint.eqx` into the output directory. The
normalised energy error is |path energy - W2^2| / W2^2, with W2 that of the two laws: 0 for
paths of optimal transport. Needs `otjax[examples]`.
"""

import dataclasses
import json
import math
import time
from pathlib import Path
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import tyro
from common import (
    check_options,
    draw_curves,
    fail,
    make_directory,
    Options,
    report_device,
    start,
    train,
)
from evaluation import exact_w2, print_table
from jaxtyping import Array, Bool, Float, Int
from matplotlib.figure import Figure

from otjax import flow


NUM_EVALUATED = 2000  # points of each cloud that is evaluated
NUM_DRAWN = 200  # paths in the picture
NAMES = ("loss", "relative_cost", "marginal_error")


@dataclasses.dataclass(frozen=True)
class Config(Options):
    """A velocity field from eight Gaussians to two moons."""

    # How starts and ends are paired: at random, by rows of a plan, or one to one by a plan.
    coupling: Literal["independent", "rows", "assignment"] = "assignment"
    epsilon: float = 0.01  # of the plan, relative to the mean cost
    plan_batch: int = 512  # samples of each side in a plan
    batch: int = 256  # pairs of them that a step is taken on
    steps: int = 3000
    width: int = 64  # of the three hidden layers
    learning_rate: float = 2e-3  # it decays to zero by a cosine
    integration_steps: int = 50  # of Heun's method, two evaluations each
    output: Path = Path("outputs/flow_matching")  # directory for all that is written


class Field(eqx.Module):
    """A velocity: of a time and a point in the plane."""

    layers: eqx.nn.MLP

    def __call__(self, t: Float[Array, ""], x: Float[Array, "2"]) -> Float[Array, "2"]:
        return self.layers(jnp.append(x, t))


class State(eqx.Module):
    """All that a step changes."""

    field: Field
    optimiser_state: optax.OptState
    key: Array
    step: Int[Array, ""]


def draw_gaussians(key: Array, num: int) -> Float[Array, "num 2"]:
    """Eight Gaussians on a circle of radius 5."""
    key_mode, key_noise = jr.split(key)
    angles = jr.randint(key_mode, (num,), 0, 8) * (math.pi / 4)
    means = 5 * jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=1)
    return means + 0.1**0.25 * jr.normal(key_noise, (num, 2))


def draw_moons(key: Array, num: int) -> Float[Array, "num 2"]:
    """Two half circles that reach into each other, as scikit-learn has them, times 3 minus 1."""
    key_side, key_angle, key_noise = jr.split(key, 3)
    inner = jr.bernoulli(key_side, shape=(num,))
    angles = jr.uniform(key_angle, (num,), maxval=math.pi)
    x = jnp.where(inner, 1 - jnp.cos(angles), jnp.cos(angles))
    y = jnp.where(inner, 0.5 - jnp.sin(angles), jnp.sin(angles))
    return 3 * (jnp.stack([x, y], axis=1) + 0.2 * jr.normal(key_noise, (num, 2))) - 1


def make_coupling(config: Config) -> flow.AbstractCoupling:
    if config.coupling == "independent":
        return flow.Independent()
    draw = flow.Rows() if config.coupling == "rows" else flow.Assignment()
    return flow.Minibatch(epsilon=config.epsilon, draw=draw, num_pairs=config.batch)


class FlowTrainer(eqx.Module):
    """One compiled step: fresh samples, their pairs, the loss, an update."""

    coupling: flow.AbstractCoupling
    optimiser: optax.GradientTransformation = eqx.field(static=True)
    num_samples: int = eqx.field(static=True)

    @eqx.filter_jit
    def step(self, state: State, data: None) -> tuple[State, dict[str, Array]]:
        del data
        key_starts, key_ends, key_loss = jr.split(jr.fold_in(state.key, state.step), 3)
        x0 = draw_gaussians(key_starts, self.num_samples)
        x1 = draw_moons(key_ends, self.num_samples)

        def loss_fn(field: Field) -> tuple[Float[Array, ""], flow.Pairs]:
            return flow.velocity_loss(field, key_loss, x0, x1, coupling=self.coupling, has_aux=True)

        (loss, pairs), gradient = eqx.filter_value_and_grad(loss_fn, has_aux=True)(state.field)
        parameters = eqx.filter(state.field, eqx.is_array)
        updates, optimiser_state = self.optimiser.update(
            gradient, state.optimiser_state, parameters
        )
        field = eqx.apply_updates(state.field, updates)
        metrics = {name: getattr(pairs, name) for name in NAMES[1:]} | {"loss": loss}
        finite = jnp.isfinite(loss) & _all_finite(field)
        return State(field, optimiser_state, state.key, state.step + 1), metrics | {
            "finite": finite
        }


def _all_finite(field: Field) -> Bool[Array, ""]:
    leaves = jax.tree.leaves(eqx.filter(field, eqx.is_array))
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in leaves]))


def make_trainer(config: Config) -> FlowTrainer:
    schedule = optax.cosine_decay_schedule(config.learning_rate, config.steps)
    independent = config.coupling == "independent"
    num_samples = config.batch if independent else config.plan_batch
    return FlowTrainer(make_coupling(config), optax.adam(schedule), num_samples)


def make_state(config: Config, trainer: FlowTrainer) -> State:
    key_field, key_steps = jr.split(jr.key(config.seed))
    field = Field(eqx.nn.MLP(3, 2, config.width, 3, jax.nn.selu, key=key_field))
    optimiser_state = trainer.optimiser.init(eqx.filter(field, eqx.is_array))
    # As numbers, so that it can be saved.
    return State(field, optimiser_state, jr.key_data(key_steps), jnp.zeros((), jnp.int32))


def evaluate(field: Field, seed: int, num_steps: int) -> dict[str, dict[str, float]]:
    """The field, and the floor: how far other samples of the moons are from those compared with."""
    key_starts, key_ends, key_others = jr.split(jr.fold_in(jr.key(seed), 1), 3)
    starts = draw_gaussians(key_starts, NUM_EVALUATED)
    ends, others = (np.asarray(draw_moons(key, NUM_EVALUATED)) for key in (key_ends, key_others))
    distance = exact_w2(np.asarray(starts), ends)
    nan = float("nan")
    table = {
        "other moons (floor)": {"W2^2": exact_w2(others, ends), "NPE": nan, "straightness": nan}
    }
    for name, solver, steps in (
        (f"Heun, {num_steps} steps", flow.Heun(), num_steps),
        ("Euler, 1 step", flow.Euler(), 1),
    ):
        solution = flow.integrate(field, starts, solver=solver, num_steps=steps)
        table[name] = {
            "W2^2": exact_w2(np.asarray(solution.samples), ends),
            "NPE": abs(float(solution.path_energy) - distance) / distance,
            "straightness": float(solution.straightness),
        }
    return table


def draw_paths(field: Field, seed: int, num_steps: int, path: Path) -> None:
    """Where points go on the way, in grey, with their starts and ends."""
    x = draw_gaussians(jr.fold_in(jr.key(seed), 2), NUM_DRAWN)
    points = [np.asarray(x)]
    for k in range(20):
        piece = {"start": k / 20, "end": (k + 1) / 20, "num_steps": max(num_steps // 20, 1)}
        x = flow.integrate(field, x, **piece).samples
        points.append(np.asarray(x))
    lines = np.stack(points)
    figure = Figure(figsize=(6, 6), layout="tight")
    axis = figure.subplots()
    axis.plot(lines[..., 0], lines[..., 1], color="grey", linewidth=0.4, alpha=0.6)
    for cloud, label in ((lines[0], "start"), (lines[-1], "end")):
        axis.scatter(*cloud.T, s=6, label=label, zorder=3)
    axis.set(aspect="equal")
    axis.legend()
    figure.savefig(path, dpi=120)


def check(config: Config) -> None:
    check_options(config)
    if config.coupling != "independent" and config.batch > config.plan_batch:
        fail(f"--batch must be at most --plan-batch={config.plan_batch}, got {config.batch}.")


def main(config: Config) -> None:
    check(config)
    trainer: Any = make_trainer(config)  # what the loop needs is its step alone
    path = config.output / "checkpoint.eqx"
    make: Any = lambda: make_state(config, trainer)
    progress = start(config, path if config.resume else None, NAMES, make)
    make_directory(config.output)
    report_device()

    begin = time.perf_counter()
    progress = train(config, lambda step: trainer, progress, None, path, NAMES)
    seconds = time.perf_counter() - begin
    state: Any = progress.state
    if int(state.step) < config.steps:
        print(f"stopped after step {state.step} of {config.steps}; --resume goes on.")
        return

    table = evaluate(state.field, config.seed, config.integration_steps)
    draw_paths(state.field, config.seed, config.integration_steps, config.output / "paths.png")
    draw_curves(progress.curves, NAMES, config.output / "curves.png")
    report = {"config": dataclasses.asdict(config), "seconds_of_this_run": seconds, "table": table}
    (config.output / "table.json").write_text(json.dumps(report, default=str, indent=1) + "\n")
    print(f"{NUM_EVALUATED} points each; this run took {seconds:.0f} s, with compilation")
    print_table(table)
    print(f"written to {config.output}")


if __name__ == "__main__":
    main(tyro.cli(Config))
