"""Generates digits by flows and drifts: in one step, or in fifty.

    python examples/flow_digits.py                        # 8 x 8 digits of scikit-learn, in turn
    python examples/flow_digits.py --method w-flow
    python examples/flow_digits.py --data train-images-idx3-ubyte.gz --width 512    # MNIST
    python examples/flow_digits.py --beside outputs/image_gan/table.json  # with critics and W2
    python examples/flow_digits.py --resume               # on from the checkpoint, bit for bit

| method | what is trained |
| --- | --- |
| `mean-shift`, `sinkhorn-drift`, `w-flow` | a generator along a drift; one step |
| `ot-cfm` | a velocity on pairs from the plan of each batch; fifty steps, and one |
| `rectified-2` | a velocity on the pairs that `ot-cfm` has made; one step |

The networks have the same hidden layers as those of `image_gan.py`, whose table can stand beside.
Each method has its directory under the output directory, with `samples.png`, `curves.png` and
`checkpoint.eqx`; `table.json` and the table printed say how far samples are from images that
training never saw, beside the training images, which are the floor. Needs `otjax[examples]`.
"""

import dataclasses
import json
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
    CodedNoise,
    draw_curves,
    draw_images,
    fail,
    load_images,
    make_directory,
    Options,
    report_device,
    run_script,
    start,
    train,
)
from evaluation import evaluate, fit_classifier, MOST_POINTS, print_table
from jaxtyping import Array, Float

from otjax import flow
from otjax.gan import AbstractObjective, Drifting, Ends, FlowMatching, Trainer
from otjax.nn import MLPGenerator


Method = Literal["mean-shift", "sinkhorn-drift", "w-flow", "ot-cfm", "rectified-2"]
METHODS: tuple[Method, ...] = get_args(Method)
COMPONENTS = 10  # of the one-hot code of a generator's noise


@dataclasses.dataclass(frozen=True)
class Config(Options):
    """Digits by flows and drifts."""

    method: tuple[Method, ...] = METHODS  # in this order
    data: str = "digits"  # of scikit-learn, or the path of an IDX file of images, also .gz
    steps: int = 3000  # of each method
    latent: int = 16  # dimension of a generator's Gaussian noise, to which a code is joined
    width: int = 256  # of the three hidden layers
    learning_rate: float = 7e-4  # it decays to zero by a cosine
    # Of Sinkhorn's drifts, relative to the variance of the images.
    epsilon: tuple[float, ...] = (0.03, 0.1)
    # Of mean shifts, relative to the mean distance of samples and images.
    temperature: tuple[float, ...] = (0.02, 0.05, 0.2)
    pairs: int = 10_000  # of rectified flow
    integration_steps: int = 50  # of Euler's method
    beside: Path | None = None  # a table.json of image_gan.py on the same data
    output: Path = Path("outputs/flow_digits")  # directory for all that is written


class Field(eqx.Module):
    """A velocity: of a time and an image."""

    layers: eqx.nn.MLP

    def __call__(self, t: Float[Array, ""], x: Float[Array, "..."]) -> Float[Array, "..."]:
        return self.layers(jnp.append(x, t)).reshape(x.shape)


class Task(NamedTuple):
    """What a method stands for."""

    objective: AbstractObjective
    model: Callable[[Array], Any]  # made with a key
    latent: Callable[[Array], Array]
    data: Any
    names: tuple[str, ...]  # of the metrics to plot


class Noise(eqx.Module):
    """The start of a flow: Gaussian noise of the shape and the spread of the images."""

    mean: Array
    scale: Float[Array, ""]

    def __call__(self, key: Array) -> Array:
        return self.mean + self.scale * jr.normal(key, self.mean.shape)


def make_task(config: Config, method: Method, images: Array, teacher: Any) -> Task:
    variance = jnp.sum(jnp.var(images, axis=0))
    shape, size = images.shape[1:], images[0].size
    noise = Noise(jnp.mean(images, axis=0), jnp.sqrt(variance / size))

    def field(key: Array) -> Field:
        return Field(eqx.nn.MLP(size + 1, size, config.width, 3, jax.nn.silu, key=key))

    def generator(key: Array) -> MLPGenerator:
        return MLPGenerator(
            config.latent + COMPONENTS, shape, width=config.width,
            final_activation=jax.nn.sigmoid, key=key,
        )  # fmt: skip

    told = ("generator_loss", "relative_cost", "marginal_error")
    epsilons = variance * jnp.asarray(config.epsilon)
    match method:
        case "ot-cfm":
            plan = flow.Minibatch(epsilon=0.01, draw=flow.Assignment())
            return Task(FlowMatching(plan), field, noise, images, told)
        case "rectified-2":
            starts = jax.vmap(noise)(jr.split(fixed_key(config, 2), config.pairs))
            z0, z1 = flow.reflow(
                teacher, starts, solver=flow.Euler(), num_steps=config.integration_steps
            )
            return Task(FlowMatching(flow.Paired()), field, noise, Ends(z1, z0), told)
        case "mean-shift":
            drift = flow.MeanShift(config.temperature)
        case "sinkhorn-drift":
            drift = flow.SinkhornDrift(epsilons)
        case "w-flow":
            drift = flow.SplitSinkhornDrift(epsilons)
    names = ("size", "w2", "unconverged")
    return Task(Drifting(drift), generator, CodedNoise(config.latent, COMPONENTS), images, names)


def fixed_key(config: Config, use: int) -> Array:
    """A key that no training uses: that of what is made before it, or drawn after it."""
    return jr.fold_in(jr.fold_in(jr.key(config.seed), 1), use)


def make_trainer(config: Config, task: Task) -> Trainer:
    schedule = optax.cosine_decay_schedule(config.learning_rate, config.steps)
    return Trainer(
        task.objective,
        generator_optimiser=optax.adam(schedule),
        latent=task.latent,
        batch_size=config.batch,
        n_critic=0,
        ema_decay=0.99,
    )


def samples_of(model: Any, latents: Array, config: Config) -> dict[str, np.ndarray]:
    """Samples of a method: of a velocity in many steps and in one."""
    if isinstance(model, Field):
        move = lambda steps: flow.integrate(model, latents, solver=flow.Euler(), num_steps=steps)
        return {
            f"{steps} step{'s' if steps > 1 else ''}": np.asarray(move(steps).samples.clip(0, 1))
            for steps in (config.integration_steps, 1)
        }
    generate = eqx.filter_jit(lambda model, latents: jax.vmap(model)(latents))
    return {"1 step": np.asarray(generate(model, latents))}


def check(config: Config, num: int) -> None:
    check_options(config)
    if config.batch > min(num, config.pairs) or config.batch % 2:
        fail(
            f"--batch must be even and at most {min(num, config.pairs)}, the training set and "
            f"--pairs, got {config.batch}."
        )
    for name, numbers in (("epsilon", config.epsilon), ("temperature", config.temperature)):
        if not numbers or not all(0 < number < np.inf for number in numbers):
            fail(f"--{name} must be positive numbers, got {numbers}.")
    if not config.method or len(set(config.method)) < len(config.method):
        fail("--method must name one method at least, and each but once.")
    methods = config.method
    if "rectified-2" in methods and "ot-cfm" not in methods[: methods.index("rectified-2")]:
        fail("--method rectified-2 needs ot-cfm before it, whose pairs it is trained on.")
    checkpoints = [config.output / method / "checkpoint.eqx" for method in methods]
    if config.resume and not any(path.exists() for path in checkpoints):
        fail(f"--resume: there is no checkpoint at {checkpoints[0]}; run once without --resume.")


def rows_beside(path: Path | None) -> dict[str, dict[str, float]]:
    if path is None:
        return {}
    try:
        table = json.loads(path.read_text())["table"]
    except (OSError, ValueError, KeyError) as error:
        fail(f"--beside: {path} is not a table of image_gan.py ({error!r}).")
    return {name: row for name, row in table.items() if "floor" not in name}


def main(config: Config) -> None:
    images = load_images(config.data)
    check(config, len(images.train))
    beside = rows_beside(config.beside)
    report_device()
    data = jnp.asarray(images.train)
    num, clouds, seconds, teacher = min(len(data), MOST_POINTS), {}, {}, None
    for method in config.method:
        begin = time.perf_counter()
        task = make_task(config, method, data, teacher)
        trainer, directory = make_trainer(config, task), config.output / method
        path = directory / "checkpoint.eqx"

        def make(task: Task = task, trainer: Trainer = trainer):
            key_model, key_steps = jr.split(jr.key(config.seed))
            return trainer.init(task.model(key_model), key=key_steps, data=task.data)

        # Of several methods in turn an interruption leaves the last ones without a checkpoint.
        resumed = path if config.resume and path.exists() else None
        progress = start(config, resumed, task.names, make)
        make_directory(directory)
        progress = train(
            config, lambda step, trainer=trainer: trainer, progress, task.data, path, task.names
        )
        if int(progress.state.step) < config.steps:
            print(f"{method}: stopped after step {progress.state.step}; --resume goes on.")
            return
        seconds[method] = time.perf_counter() - begin
        latents = trainer.latents(progress.state.key_at(config.steps), num)
        found = samples_of(progress.state.ema, latents, config)
        clouds |= {f"{method}, {how}": samples for how, samples in found.items()}
        draw_images(found | {"real, never seen": images.test}, directory / "samples.png")
        draw_curves(progress.curves, task.names, directory / "curves.png")
        teacher = progress.state.ema if method == "ot-cfm" else teacher

    clouds["training set (floor)"] = images.train
    classifier = None
    if images.train_labels is not None and images.test_labels is not None:
        classifier = fit_classifier(images.train, images.train_labels)
    table = {name: evaluate(cloud, images.test, classifier) for name, cloud in clouds.items()}
    report = {"config": dataclasses.asdict(config), "seconds_of_this_run": seconds, "table": table}
    (config.output / "table.json").write_text(json.dumps(report, default=str, indent=1) + "\n")
    for method, value in seconds.items():
        print(f"{method}: {value:.0f} s, with compilation")
    print_table(table | beside)
    print(f"written to {config.output}")


if __name__ == "__main__":
    run_script(main, Config)
