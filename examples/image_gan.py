"""Trains one generator of images with the loss of your choice: Wasserstein critics, or W2 itself.

    python examples/image_gan.py                             # WGAN-GP on 8 x 8 digits, minutes
    python examples/image_gan.py --loss w2 wgan-gp           # the same generator, in turn: a table
    python examples/image_gan.py --data train-images-idx3-ubyte.gz --network conv --width 32 # MNIST
    python examples/image_gan.py --resume                    # on from the checkpoint, bit for bit

Each loss has its directory under the output directory, with `samples.png`, `curves.png` and
`checkpoint.eqx`. `table.json` and the table printed say how far the samples (of the generator's
moving average) are from images that training never saw, beside two clouds that need no generator:
the training images, the floor for one that repeats its data, and a Gaussian fitted to them.
Needs `otjax[examples]`.
"""

import dataclasses
import json
import time
from pathlib import Path
from typing import Literal, NamedTuple

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
    draw_images,
    fail,
    Images,
    load_images,
    make_directory,
    Options,
    report_device,
    run_script,
    start,
    train,
)
from evaluation import evaluate, fit_classifier, fitted_gaussian, MOST_POINTS, print_table
from jaxtyping import Array, Float

from otjax.gan import (
    AbstractObjective,
    JensenShannonGAN,
    keep_params_within,
    OneSided,
    PenalisedWGAN,
    SinkhornGAN,
    Trainer,
    TrainState,
    WGAN,
)
from otjax.nn import ConvCritic, ConvGenerator, LipschitzConv, LipschitzMLP, MLPCritic, MLPGenerator


Loss = Literal["wgan-clip", "wgan-gp", "wgan-lp", "lipschitz", "jensen-shannon", "w2"]

COMPONENTS = 10  # of the one-hot code
W2_DATA_BATCH = 2000  # real images against which W2 compares a batch, where there are as many


@dataclasses.dataclass(frozen=True)
class Config(Options):
    """A generator of images, trained with one or several losses in turn."""

    loss: tuple[Loss, ...] = ("wgan-gp",)  # one generator is trained with each
    data: str = "digits"  # of scikit-learn, or the path of an IDX file of images, also .gz
    network: Literal["mlp", "conv"] = "mlp"  # of generator and critic
    steps: int = 3000  # generator steps, spanned by the schedules
    n_critic: int = 5  # critic steps before each of them
    latent: int = 16  # dimension of the Gaussian noise, to which a random one-hot code is joined
    width: int = 256  # of the hidden layers; for --network conv, of channels, take 32
    learning_rate: float = 7e-4  # of the generator; it decays to zero by a cosine
    critic_learning_rate: float = 1e-3  # of the critic; it decays likewise
    penalty: float = 10.0  # weight of the gradient penalty
    clip: float = 0.05  # bound on the critic's weights, for wgan-clip
    epsilon: float = 0.03  # of w2, relative to the variance of the images; annealed from 0.1
    output: Path = Path("outputs/image_gan")  # directory for all that is written


def many_images(images: Float[Array, "n ..."], key: Array) -> Float[Array, "m ..."]:
    """The batch of W2: all images where they are few, for a small batch has a distance of its
    own to what it was drawn from."""
    if len(images) <= W2_DATA_BATCH:
        return images
    return jr.choice(key, images, (W2_DATA_BATCH,), replace=False)


def num_compared(images: Images) -> int:
    """How many samples are drawn: as many as there are training images, and no more than are
    evaluated."""
    return min(len(images.train), MOST_POINTS)


class Game(NamedTuple):
    """What a loss stands for: how the generator is trained, against which kind of critic."""

    objective: AbstractObjective
    critic: Literal["free", "lipschitz"] | None
    names: tuple[str, ...]  # metrics to plot, the estimate of the distance first


def make_game(config: Config, loss: Loss, variance: float) -> Game:
    penalised = ("w1", "penalty", "gradient_norm", "generator_loss")
    match loss:
        case "wgan-clip":
            return Game(WGAN(), "free", ("w1", "generator_loss"))
        case "wgan-gp":
            return Game(PenalisedWGAN(config.penalty), "free", penalised)
        case "wgan-lp":
            return Game(PenalisedWGAN(config.penalty, penalty=OneSided()), "free", penalised)
        case "lipschitz":
            return Game(WGAN(), "lipschitz", ("w1", "generator_loss"))
        case "jensen-shannon":
            return Game(JensenShannonGAN(), "free", ("jensen_shannon", "generator_loss"))
        case "w2":
            objective = SinkhornGAN(config.epsilon * variance)
            return Game(objective, None, ("divergence", "unconverged", "solver_steps"))


def make_trainer(config: Config, loss: Loss, game: Game) -> Trainer:
    schedule = optax.cosine_decay_schedule(config.learning_rate, config.steps)
    # Its steps are those of the critic.
    critic_schedule = optax.cosine_decay_schedule(
        config.critic_learning_rate, config.steps * config.n_critic
    )
    critic_optimiser = optax.adam(critic_schedule, b1=0.5, b2=0.9)
    if loss == "wgan-clip":  # without momentum, as its authors advise
        clip = keep_params_within(config.clip)
        critic_optimiser = optax.chain(optax.rmsprop(critic_schedule), clip)
    return Trainer(
        game.objective,
        generator_optimiser=optax.adam(schedule, b1=0.5, b2=0.9),
        critic_optimiser=None if game.critic is None else critic_optimiser,
        latent=CodedNoise(config.latent, COMPONENTS),
        batch_size=config.batch,
        n_critic=0 if game.critic is None else config.n_critic,
        ema_decay=0.99,
    )


def make_state(
    config: Config, trainer: Trainer, critic_kind: str | None, shape: tuple[int, ...]
) -> TrainState:
    key_generator, key_critic, key_steps = jr.split(jr.key(config.seed), 3)
    latent, width, sigmoid = config.latent + COMPONENTS, config.width, jax.nn.sigmoid
    if config.network == "conv":
        generator = ConvGenerator(latent, *shape[:2], width=width, key=key_generator)
        critics = {"free": ConvCritic, "lipschitz": LipschitzConv}
        make_critic = lambda kind: critics[kind](*shape[:2], width=width, key=key_critic)
    else:
        generator = MLPGenerator(
            latent, shape, width=width, final_activation=sigmoid, key=key_generator
        )
        critics = {"free": MLPCritic, "lipschitz": LipschitzMLP}
        make_critic = lambda kind: critics[kind](shape, width=width, key=key_critic)
    critic = None if critic_kind is None else make_critic(critic_kind)
    return trainer.init(generator, critic, key=key_steps)


def check(config: Config, images: Images) -> None:
    check_options(config)
    num, shape = len(images.train), images.train.shape[1:]
    if config.batch > num:
        fail(f"--batch must be at most {num}, the training set, got {config.batch}.")
    if not config.loss or len(set(config.loss)) < len(config.loss):
        fail("--loss must name one loss at least, and each but once.")
    if config.network == "conv" and shape[1] != shape[2]:
        fail(f"--network conv needs square images, those of --data are {shape[1]} x {shape[2]}.")
    for loss in config.loss:
        game = make_game(config, loss, 1.0)
        trainer = make_trainer(config, loss, game)
        try:  # which sizes the networks can have
            eqx.filter_eval_shape(make_state, config, trainer, game.critic, shape)
        except ValueError as error:
            fail(f"--loss {loss} --network {config.network} --width {config.width}: {error}")
    checkpoints = [config.output / loss / "checkpoint.eqx" for loss in config.loss]
    if config.resume and not any(path.exists() for path in checkpoints):
        fail(f"--resume: there is no checkpoint at {checkpoints[0]}; run once without --resume.")


def run(config: Config, loss: Loss, images: Images) -> np.ndarray | None:
    """Trains with one loss and draws; samples, or None if it was stopped before the end."""
    variance = float(images.train.var(axis=0).sum())
    game = make_game(config, loss, variance)
    trainer = make_trainer(config, loss, game)
    directory = config.output / loss
    path = directory / "checkpoint.eqx"
    make = lambda: make_state(config, trainer, game.critic, images.train.shape[1:])
    # Of several losses in turn an interruption leaves the last ones without a checkpoint.
    resumed = config.resume and path.exists()
    progress = start(config, path if resumed else None, game.names, make)
    make_directory(directory)
    data = jnp.asarray(images.train)

    def trainer_at(step: int) -> Trainer:
        if loss != "w2":
            return trainer
        done = min(step / (0.75 * config.steps), 1)
        epsilon = 0.1 * variance * (config.epsilon / 0.1) ** done
        return eqx.tree_at(lambda t: t.objective.epsilon, trainer, jnp.asarray(epsilon))

    batches = jax.tree_util.Partial(many_images, data) if loss == "w2" else data
    progress = train(config, trainer_at, progress, batches, path, game.names)
    if int(progress.state.step) < config.steps:
        print(f"{loss}: stopped after step {progress.state.step}; --resume goes on.")
        return None
    # A key that no training step has used.
    latents = trainer.latents(progress.state.key_at(config.steps), num_compared(images))
    generate = eqx.filter_jit(lambda generator, latents: jax.vmap(generator)(latents))
    samples = np.asarray(generate(progress.state.ema, latents))
    panels = {"generated": samples, "real, never seen": images.test}
    draw_images(panels, directory / "samples.png")
    draw_curves(progress.curves, game.names, directory / "curves.png")
    return samples


def main(config: Config) -> None:
    images = load_images(config.data)
    check(config, images)
    report_device()
    clouds, seconds = {}, {}
    for loss in config.loss:
        begin = time.perf_counter()
        samples = run(config, loss, images)
        seconds[loss] = time.perf_counter() - begin
        if samples is not None:
            clouds[loss] = samples
    if len(clouds) < len(config.loss):
        return

    clouds["training set (floor)"] = images.train
    clouds["Gaussian, clipped"] = fitted_gaussian(images.train, num_compared(images), config.seed)
    classifier = None
    if images.train_labels is not None and images.test_labels is not None:
        classifier = fit_classifier(images.train, images.train_labels)
        wrong = np.mean(classifier.predict(images.test) != images.test_labels)
        print(f"classifier of the features: {wrong:.1%} wrong on the test images")
    else:
        print("no labels beside --data: features are pixels, and classes are not counted")
    table = {name: evaluate(cloud, images.test, classifier) for name, cloud in clouds.items()}
    report = {"config": dataclasses.asdict(config), "seconds_of_this_run": seconds, "table": table}
    (config.output / "table.json").write_text(json.dumps(report, default=str, indent=1) + "\n")
    for loss, value in seconds.items():
        print(f"{loss}: {value:.0f} s, with compilation")
    print_table(table)
    print(f"written to {config.output}")


if __name__ == "__main__":
    run_script(main, Config)
