"""Trains a generator of points in the plane, and counts the modes that it finds.

    python examples/toy_gan.py                                  # 25 Gaussians, minutes
    python examples/toy_gan.py --data eight --loss wgan-gp
    python examples/toy_gan.py --resume                         # on, bit for bit

Writes `samples.png`, `curves.png`, `table.json` and `checkpoint.eqx` into the output directory. A
sample is good if it is within 3 sigma of the nearest mode (98.9 % of the real ones are), and a mode
is found if it has at least a tenth of its share of good samples. Needs `otjax[examples]`.
"""

import dataclasses
import json
import time
from pathlib import Path
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from common import (
    check_options,
    CodedNoise,
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
from jaxtyping import Array, Float, Int
from matplotlib.figure import Figure

import otjax
from otjax.gan import (
    AbstractObjective,
    JensenShannonGAN,
    OneSided,
    PenalisedWGAN,
    SinkhornGAN,
    Trainer,
    TrainState,
    WGAN,
)
from otjax.nn import FourierFeatures, LipschitzMLP, MLPCritic, MLPGenerator


Loss = Literal["w1", "w2", "wgan-gp", "wgan-lp", "lipschitz", "jensen-shannon"]
NUM_EVALUATED = 2000  # points of each cloud that is evaluated
FOUND = 0.1  # the least part of its fair share with which a mode is found


@dataclasses.dataclass(frozen=True)
class Config(Options):
    """A generator of points in the plane, and the modes that it finds."""

    data: Literal["eight", "grid", "roll"] = "grid"  # eight or 25 Gaussians, or a swiss roll
    # Of Sinkhorn divergences w1 and w2, without a critic, or of critics.
    loss: Loss = "w1"
    steps: int = 3000  # generator steps, spanned by the schedules
    batch: int = 512  # samples in each step of critic or generator
    n_critic: int = 5  # critic steps before each generator step, for losses with critics
    latent: int = 2  # dimension of the Gaussian noise
    components: int = 200  # of the random one-hot code that is joined to the noise
    width: int = 128  # of the three hidden layers of the generator, and the two of the critic
    learning_rate: float = 2e-3  # of the generator; it decays to zero by a cosine
    critic_learning_rate: float = 1e-3  # of the critic; it decays likewise
    frequency: float = 10.0  # of the Fourier features that a critic reads, per unit of the plane
    penalty: float = 1.0  # weight of the gradient penalty
    epsilon: float = 0.01  # of w1 and w2: of the distance, or of its square
    output: Path = Path("outputs/toy_gan")  # directory for all that is written


class Mixture(eqx.Module):
    """Gaussian noise around nodes in the plane; drawn from by a call with a key."""

    nodes: Float[Array, "m 2"]
    mode: Int[Array, " m"]  # to which each node belongs
    sigma: Float[Array, ""]
    batch: int = eqx.field(static=True)

    def __init__(self, nodes: np.ndarray, modes: int, sigma: float, batch: int):
        self.nodes = jnp.asarray(nodes, jnp.float32)
        self.mode = jnp.arange(len(nodes)) * modes // len(nodes)
        self.sigma = jnp.asarray(sigma, jnp.float32)
        self.batch = batch

    def __call__(self, key: Array) -> Float[Array, "batch 2"]:
        return self.draw(key, self.batch)

    def draw(self, key: Array, num: int) -> Float[Array, "num 2"]:
        key_node, key_noise = jr.split(key)
        nodes = self.nodes[jr.randint(key_node, (num,), 0, len(self.nodes))]
        return nodes + self.sigma * jr.normal(key_noise, (num, 2))

    def coverage(self, points: np.ndarray) -> dict[str, float]:
        nodes, modes = np.asarray(self.nodes), int(self.mode[-1]) + 1
        distances = np.linalg.norm(points[:, None] - nodes, axis=2)
        good = distances.min(axis=1) <= 3 * float(self.sigma)
        nearest = np.asarray(self.mode)[distances.argmin(axis=1)]
        counts = np.bincount(nearest[good], minlength=modes)
        return {
            "modes found": float((counts >= FOUND * len(points) / modes).sum()),
            "of": float(modes),
            "good": float(good.mean()),
        }


def make_mixture(data: str, batch: int) -> Mixture:
    if data == "eight":
        angles = np.arange(8) * np.pi / 4
        return Mixture(2 * np.stack([np.cos(angles), np.sin(angles)], axis=1), 8, 0.05, batch)
    if data == "grid":
        grid = np.stack(np.meshgrid(np.arange(-2.0, 3.0), np.arange(-2.0, 3.0)), axis=2)
        return Mixture(grid.reshape(-1, 2), 25, 0.05, batch)
    # Nodes at equal distances along the spiral r = angle; twenty pieces of it count as modes.
    angles = 1.5 * np.pi * np.linspace(1, 3, 4000)
    length = np.cumsum(np.sqrt(1 + angles**2))
    angles = np.interp(np.linspace(length[0], length[-1], 1000), length, angles)
    curve = np.stack([angles * np.cos(angles), angles * np.sin(angles)], axis=1)
    return Mixture(curve * 2 / angles[-1], 20, 0.05, batch)


def make_objective(config: Config) -> tuple[AbstractObjective, tuple[str, ...]]:
    """The game, and the metrics to plot, the estimate of the distance first."""
    penalised = ("w1", "gradient_norm", "generator_loss")
    match config.loss:
        case "w1":
            cost = otjax.Euclidean()
            return SinkhornGAN(config.epsilon, cost=cost), ("divergence", "unconverged")
        case "w2":
            return SinkhornGAN(config.epsilon), ("divergence", "unconverged")
        case "wgan-gp":
            return PenalisedWGAN(config.penalty), penalised
        case "wgan-lp":
            return PenalisedWGAN(config.penalty, penalty=OneSided()), penalised
        case "lipschitz":
            return WGAN(), ("w1", "generator_loss")
        case "jensen-shannon":
            return JensenShannonGAN(), ("jensen_shannon", "generator_loss")


def make_trainer(config: Config, objective: AbstractObjective) -> Trainer:
    def adam(rate: float, steps: int) -> optax.GradientTransformation:
        return optax.adam(optax.cosine_decay_schedule(rate, steps), b1=0.5, b2=0.99)

    without_critic = isinstance(objective, SinkhornGAN)
    # The schedule of the critic counts its own steps.
    critic_optimiser = adam(config.critic_learning_rate, config.steps * config.n_critic)
    return Trainer(
        objective,
        generator_optimiser=adam(config.learning_rate, config.steps),
        critic_optimiser=None if without_critic else critic_optimiser,
        latent=CodedNoise(config.latent, config.components),
        batch_size=config.batch,
        n_critic=0 if without_critic else config.n_critic,
        ema_decay=0.99,
    )


def make_critic(config: Config, key: Array) -> MLPCritic | LipschitzMLP:
    if config.loss == "lipschitz":
        return LipschitzMLP(2, width=config.width, key=key)
    # Modes this narrow are beyond the reach of a network that reads nothing but coordinates.
    key_features, key_layers = jr.split(key)
    features = FourierFeatures(2, scale=config.frequency, key=key_features)
    return MLPCritic(2, width=config.width, features=features, key=key_layers)


def make_state(config: Config, trainer: Trainer) -> TrainState:
    key_generator, key_critic, key_steps = jr.split(jr.key(config.seed), 3)
    latent, width = config.latent + config.components, config.width
    generator = MLPGenerator(latent, 2, width=width, key=key_generator)
    critic = make_critic(config, key_critic) if trainer.n_critic > 0 else None
    return trainer.init(generator, critic, key=key_steps)


def draw(samples: np.ndarray, real: np.ndarray, row: dict[str, float], path: Path) -> None:
    """The generated points beside real ones; `row` is the evaluation of the former."""
    figure = Figure(figsize=(9, 4.8), layout="tight")
    found = f"{row['modes found']:.0f} of {row['of']:.0f} modes, {row['good']:.1%} good"
    panels = {f"generated: {found}": samples, "real": real}
    for axis, (title, points) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        axis.scatter(*points.T, s=3, alpha=0.5, linewidths=0)
        axis.set(title=title, xlim=(-2.6, 2.6), ylim=(-2.6, 2.6), aspect="equal")
    figure.savefig(path, dpi=120)


def check(config: Config) -> None:
    check_options(config)
    if config.loss == "lipschitz" and config.width % 2:
        fail(f"--width must be even, for features are sorted in pairs, got {config.width}.")


def main(config: Config) -> None:
    check(config)
    mixture = make_mixture(config.data, config.batch)
    objective, names = make_objective(config)
    trainer = make_trainer(config, objective)
    path = config.output / "checkpoint.eqx"
    make = lambda: make_state(config, trainer)
    progress = start(config, path if config.resume else None, names, make)
    make_directory(config.output)
    report_device()

    begin = time.perf_counter()
    batches = jax.tree_util.Partial(Mixture.__call__, mixture)
    progress = train(config, lambda step: trainer, progress, batches, path, names)
    seconds = time.perf_counter() - begin
    if int(progress.state.step) < config.steps:
        print(f"stopped after step {progress.state.step} of {config.steps}; --resume goes on.")
        return

    # Keys that no training step has used.
    key = progress.state.key_at(config.steps)
    key_latents, key_real, key_other, key_gaussian = jr.split(key, 4)
    latents = trainer.latents(key_latents, NUM_EVALUATED)
    real, other = (np.asarray(mixture.draw(k, NUM_EVALUATED)) for k in (key_real, key_other))
    noise = np.asarray(jr.normal(key_gaussian, real.shape))
    clouds = {
        "generator": np.asarray(jax.vmap(progress.state.ema)(latents)),
        "other real (floor)": other,
        "Gaussian": real.mean(axis=0) + noise @ np.linalg.cholesky(np.cov(real.T)).T,
    }
    table = {
        name: mixture.coverage(cloud) | {"W2^2": exact_w2(cloud, real)}
        for name, cloud in clouds.items()
    }
    draw(clouds["generator"], real, table["generator"], config.output / "samples.png")
    draw_curves(progress.curves, names, config.output / "curves.png")
    report = {"config": dataclasses.asdict(config), "seconds_of_this_run": seconds, "table": table}
    (config.output / "table.json").write_text(json.dumps(report, default=str, indent=1) + "\n")
    print(f"{NUM_EVALUATED} points each; this run took {seconds:.0f} s, with compilation")
    print_table(table)
    print(f"written to {config.output}")


if __name__ == "__main__":
    run_script(main, Config)
