"""Trains a generator of 8 x 8 handwritten digits with the Sinkhorn divergence as its only loss.

    python examples/digits_generator.py             # a few minutes on two CPU cores
    python examples/digits_generator.py --resume    # on from the last checkpoint, bit for bit

Writes `samples.png`, `loss.png`, `table.json` and `checkpoint.eqx` into the output directory, and
prints how far the samples are from digits that training never saw, beside the distance of the
training digits from them: the floor for a generator that repeats its data. One that smooths its
data may fall below that floor; its total variance is then less. Needs `otjax[examples]`.
"""

import contextlib
import dataclasses
import json
import math
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import ot
import tyro
from jaxtyping import Array, Float, Int, PyTree, UInt32
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from tqdm import tqdm

import otjax


NUM_TEST = 450
SPLIT_SEED = 0
COMPONENTS = 10  # of the one-hot code, which lets the samples fall into separate kinds
# What may differ between the run that wrote a checkpoint and the one that resumes it.
FREE_TO_CHANGE = {"output", "checkpoint_interval", "resume", "stop_after"}


@dataclasses.dataclass(frozen=True)
class Config:
    """A generator of handwritten digits, trained with the Sinkhorn divergence."""

    steps: int = 2000  # training steps, spanned by the schedules of learning rate and epsilon
    batch: int = 512  # images generated in each step
    data_batch: int = 1347  # real images in each step; 1347 is all of the training set
    latent: int = 8  # dimension of the Gaussian noise, to which a random one-hot code is joined
    width: int = 256  # of the three hidden layers
    learning_rate: float = 1e-3  # of Adam at the start; it decays to zero by a cosine
    epsilon: float = 0.3  # in squared pixel distance, which is 9 on average between digits
    epsilon_start: float = 1.0  # epsilon falls from here, over three quarters of the steps
    seed: int = 0  # of the weights and the noise; the split of the data is fixed
    output: Path = Path("outputs/digits")  # directory for all that is written
    checkpoint_interval: int = 200  # steps between checkpoints
    resume: bool = False  # go on from the checkpoint in the output directory
    stop_after: int | None = None  # stop after this step, as an interruption would


class State(eqx.Module):
    """All that a step reads and writes: saved whole, it resumes to the same numbers."""

    model: eqx.nn.MLP
    opt_state: PyTree
    step: Int[Array, ""]
    losses: Float[Array, " steps"]
    unconverged: Int[Array, ""]
    key: UInt32[Array, "2"]


def optimiser(config: Config) -> optax.GradientTransformation:
    schedule = optax.cosine_decay_schedule(config.learning_rate, config.steps)
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule, b2=0.99))


def make_noise(key: Array, num: int, latent: int) -> Float[Array, "num noise"]:
    key_gaussian, key_code = jr.split(key)
    code = jax.nn.one_hot(jr.randint(key_code, (num,), 0, COMPONENTS), COMPONENTS)
    # The factor sets the components apart by more than the Gaussian spreads them.
    return jnp.concatenate([jr.normal(key_gaussian, (num, latent)), 3 * code], axis=1)


def init_state(config: Config) -> State:
    key_model, key_steps = jr.split(jr.key(config.seed))
    model = eqx.nn.MLP(
        config.latent + COMPONENTS,
        out_size=64,
        width_size=config.width,
        depth=3,
        final_activation=jax.nn.sigmoid,
        key=key_model,
    )
    opt_state = optimiser(config).init(eqx.filter(model, eqx.is_array))
    zero, losses = jnp.zeros((), jnp.int32), jnp.full(config.steps, jnp.nan, jnp.float32)
    return State(model, opt_state, zero, losses, zero, jr.key_data(key_steps))


@eqx.filter_jit
@eqx.debug.assert_max_traces(max_traces=1)
def train_step(
    state: State, data: Float[Array, "n 64"], config: Config
) -> tuple[State, Float[Array, ""], Int[Array, ""]]:
    """One step; also its loss, and the most steps that one of the three solves took."""
    key_data, key_noise = jr.split(jr.fold_in(jr.wrap_key_data(state.key), state.step))
    noise = make_noise(key_noise, config.batch, config.latent)
    real = jr.choice(key_data, data, (config.data_batch,), replace=False)
    # A traced number: annealing it compiles nothing anew.
    progress = jnp.minimum(state.step / (0.75 * config.steps), 1)
    epsilon = config.epsilon_start * (config.epsilon / config.epsilon_start) ** progress

    def loss_fn(model: eqx.nn.MLP):
        return otjax.sinkhorn_divergence(
            jax.vmap(model)(noise), real, epsilon=epsilon, has_aux=True
        )

    (loss, solutions), grads = eqx.filter_value_and_grad(loss_fn, has_aux=True)(state.model)
    failed = jnp.stack([s.result != otjax.RESULTS.successful for s in solutions])
    solver_steps = jnp.stack([s.stats.num_steps for s in solutions])
    updates, opt_state = optimiser(config).update(grads, state.opt_state)
    model = eqx.apply_updates(state.model, updates)
    # Points that are not finite give a finite loss, and a result that says so: NaN here, so that
    # the loop stops at them, and at weights that this step broke.
    sound = jnp.isfinite(optax.global_norm(eqx.filter(model, eqx.is_array)))
    sound &= solutions.xy.result != otjax.RESULTS.nonfinite_input
    loss = jnp.where(sound, loss, jnp.nan)
    new = State(
        model=model,
        opt_state=opt_state,
        step=state.step + 1,
        losses=state.losses.at[state.step].set(loss),
        unconverged=state.unconverged + jnp.sum(failed),
        key=state.key,
    )
    return new, loss, jnp.max(solver_steps)


@contextlib.contextmanager
def noted_interrupts() -> Iterator[list[int]]:
    """Within it Ctrl-C is noted, so that a step can end; a second one does not wait for that."""
    noted = []

    def note(number: int, _: Any) -> None:
        noted.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, before)


def train(config: Config, state: State, data: Float[Array, "n 64"], path: Path) -> State:
    stop, saved = config.stop_after or config.steps, int(state.step)
    bar = tqdm(initial=saved, total=config.steps, unit="step")
    with noted_interrupts() as interrupts, bar:
        for step in range(saved + 1, stop + 1):
            new, loss, solver_steps = train_step(state, data, config)
            if not math.isfinite(float(loss)):
                raise SystemExit(
                    f"error: the loss or the weights became non-finite in step {step}; the last "
                    f"checkpoint is that of step {saved or 'none'}. Lower --learning-rate."
                )
            state, unconverged = new, int(new.unconverged)
            bar.set_postfix(loss=f"{loss:.3f}", solver=int(solver_steps), unconverged=unconverged)
            bar.update()
            at_end = step == stop or bool(interrupts)
            if at_end or step % config.checkpoint_interval == 0:
                save(path, config, state)
                saved = step
            if at_end:
                break
    if interrupts:
        raise KeyboardInterrupt(f"stopped after step {saved} of {config.steps}; --resume goes on.")
    return state


def save(path: Path, config: Config, state: State) -> None:
    """A line of options, then the leaves; renamed into place, so that no half file is ever left."""
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        file.write(json.dumps(dataclasses.asdict(config), default=str).encode() + b"\n")
        eqx.tree_serialise_leaves(file, state)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def load(path: Path, config: Config) -> State:
    if not path.exists():
        fail(f"--resume: there is no checkpoint at {path}; run once without --resume.")
    with path.open("rb") as file:
        try:
            saved = json.loads(file.readline())
            for name, value in dataclasses.asdict(config).items():
                if name not in FREE_TO_CHANGE and saved[name] != value:
                    fail(f"--resume: {path} was made with {name}={saved[name]}, not {value}.")
            return eqx.tree_deserialise_leaves(file, eqx.filter_eval_shape(init_state, config))
        except (EOFError, KeyError, RuntimeError, TypeError, ValueError) as error:
            fail(f"--resume: {path} is not a checkpoint of this script ({error}).")


def fail(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


def check(config: Config, num_data: int) -> None:
    """Ends with exit code 2 and a message that names the first bad option."""
    for name, value in dataclasses.asdict(config).items():
        if type(value) in (int, float) and name != "seed" and not 0 < value < math.inf:
            fail(f"--{name.replace('_', '-')} must be positive and finite, got {value}.")
    if config.data_batch > num_data:
        fail(f"--data-batch must be at most {num_data}, the training set, got {config.data_batch}.")
    if config.stop_after is not None and config.stop_after > config.steps:
        fail(f"--stop-after must be at most --steps={config.steps}, got {config.stop_after}.")


def evaluate(points: np.ndarray, test: np.ndarray, epsilon: float) -> dict[str, float]:
    """The exact squared 2-Wasserstein distance by linear programming, and two more numbers."""
    uniform = [np.full(len(cloud), 1 / len(cloud)) for cloud in (points, test)]
    distances = ot.dist(points.astype(np.float64), test.astype(np.float64), metric="sqeuclidean")
    divergence = jax.jit(otjax.sinkhorn_divergence)
    return {
        "w2_squared": float(ot.emd2(*uniform, distances, numItermax=1_000_000)),
        "sinkhorn_divergence": float(divergence(points.astype(np.float32), test, epsilon=epsilon)),
        "total_variance": float(points.var(axis=0).sum()),
    }


def draw(samples: np.ndarray, real: np.ndarray, losses: np.ndarray, config: Config) -> None:
    figure = Figure(figsize=(9, 4.8), layout="tight")
    panels = {"generated": samples, "real": real}
    for axis, (title, images) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        tiles = np.pad(images[:100].reshape(10, 10, 8, 8), ((0, 0), (0, 0), (1, 1), (1, 1)))
        axis.imshow(tiles.transpose(0, 2, 1, 3).reshape(100, 100), cmap="gray_r", vmin=0, vmax=1)
        axis.set_title(title)
        axis.axis("off")
    figure.savefig(config.output / "samples.png", dpi=120)
    figure = Figure(figsize=(6, 4), layout="tight")
    axis = figure.add_subplot()
    axis.plot(np.arange(1, len(losses) + 1), losses, linewidth=0.8)
    axis.set(xlabel="step", ylabel="Sinkhorn divergence to the training digits", yscale="log")
    # The divergence of the same two clouds grows as epsilon falls, so the curve need not fall.
    axis.set_title(f"epsilon from {config.epsilon_start:g} to {config.epsilon:g} in three quarters")
    figure.savefig(config.output / "loss.png", dpi=120)


def main(config: Config) -> None:
    digits = (load_digits().data / 16).astype(np.float32)
    data, test = train_test_split(digits, test_size=NUM_TEST, random_state=SPLIT_SEED)
    check(config, len(data))
    checkpoint = config.output / "checkpoint.eqx"
    state = load(checkpoint, config) if config.resume else init_state(config)
    try:
        config.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        fail(f"--output is no directory to write to: {error}.")
    device, precision = jax.devices()[0].device_kind, jnp.result_type(float)
    print(f"device: {device} ({jax.default_backend()}); precision: {precision}")

    begin = time.perf_counter()
    state = train(config, state, jnp.asarray(data), checkpoint)
    seconds = time.perf_counter() - begin
    if int(state.step) < config.steps:
        print(f"stopped after step {state.step} of {config.steps}; --resume goes on.")
        return

    # A key that no training step has used.
    key = jr.fold_in(jr.wrap_key_data(state.key), config.steps)
    noise = make_noise(key, len(data), config.latent)
    samples, losses = np.asarray(jax.vmap(state.model)(noise)), np.asarray(state.losses)
    gaussian = np.random.default_rng(SPLIT_SEED).multivariate_normal(
        data.mean(axis=0), np.cov(data.T), size=len(data)
    )
    clouds = {
        "generator": samples,
        "training set (floor)": data,
        "Gaussian, clipped": gaussian.clip(0, 1),
        "Gaussian": gaussian,
    }
    table = {name: evaluate(cloud, test, config.epsilon) for name, cloud in clouds.items()}
    draw(samples, test, losses, config)
    report = {"config": dataclasses.asdict(config), "seconds_of_this_run": seconds, "table": table}
    report |= {"unconverged": int(state.unconverged), "losses": losses.tolist()}
    (config.output / "table.json").write_text(json.dumps(report, default=str, indent=1) + "\n")

    print(
        f"{len(data)} points each against {len(test)} test digits; this run took {seconds:.0f} s;"
    )
    print(f"{state.unconverged} of {3 * config.steps} solves did not converge")
    print(f"{'':24}{'exact W2^2':>12}{'divergence':>12}{'variance':>12}")
    for name, row in table.items():
        print(f"{name:24}" + "".join(f"{value:12.3f}" for value in row.values()))
    print(f"written to {config.output}")


if __name__ == "__main__":
    try:
        main(tyro.cli(Config))
    except KeyboardInterrupt as end:
        print(end if end.args else "\ninterrupted.", file=sys.stderr)
        raise SystemExit(130) from None  # as shells have it for what was interrupted
