"""How many training steps of WGAN-GP a second: `otjax.gan.Trainer` beside PyTorch, on this machine.

    python benchmarks/gan_speed.py [--quick] [--output FILE]

A step is five critic updates, then one of the generator and of its moving average; generator and
critic are fully connected, of the same sizes on both sides, with the same Adam and the same
two-sided penalty on segments. First a check that both compute the same: from the same weights and
the same draws, the losses of the last critic update and of the generator agree in a first and in a
second step. Then times, warm, in turns, as medians over windows. PyTorch runs eagerly, on all
threads and on one, and by `torch.compile`, on the kind of device that JAX finds. A row of the same
data and batch is replaced.
"""

import datetime
import json
import math
import os
import pathlib
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.random as jr
import numpy as np
import optax
import torch  # pyright: ignore[reportMissingImports]
import tyro
from accelerator import describe_device, versions
from jaxtyping import Array
from torch_wgan import Draws, Game, network, Recipe

import otjax
from otjax.gan import Trainer, TrainState
from otjax.gan._batches import batch_of


THREADS = torch.get_num_threads()
AGREE_WITHIN = 1e-4


@dataclass(frozen=True)
class Options:
    """What is measured, and for how long."""

    batches: tuple[int, ...] = (64, 256)
    """Batch sizes."""
    windows: int = 7
    """Samples of each speed; the median is shown."""
    window_s: float = 0.4
    """How long each is, about."""
    compile: bool = True
    """PyTorch by torch.compile as well."""
    output: pathlib.Path | None = None
    """The JSON file; by default benchmarks/results/gan_speed_<device>.json, with a table beside."""
    quick: bool = False
    """One batch size, three short windows, PyTorch eager only: does it run?"""


QUICK = {"batches": (64,), "windows": 3, "window_s": 0.1, "compile": False}


class Data(NamedTuple):
    """Samples, and the shape of one."""

    name: str
    shape: tuple[int, ...]
    latent: int


DATA = (Data("images, 8 x 8", (1, 8, 8), 64), Data("points, d = 2", (2,), 2))


class Side(NamedTuple):
    """One contestant: a function that takes that many steps, and returns when they are done."""

    name: str
    steps: Callable[[int], Any]


def recipe_of(data: Data, batch: int) -> Recipe:
    return Recipe(
        latent=data.latent,
        batch=batch,
        n_critic=5,
        penalty=10.0,
        learning_rate=1e-3,
        betas=(0.5, 0.9),
        ema_decay=0.999,
    )


def trainer_of(recipe: Recipe) -> Trainer:
    adam = optax.adam(recipe.learning_rate, *recipe.betas)
    return Trainer(
        otjax.gan.PenalisedWGAN(recipe.penalty),
        generator_optimiser=adam,
        critic_optimiser=adam,
        latent=recipe.latent,
        batch_size=recipe.batch,
        n_critic=recipe.n_critic,
        ema_decay=recipe.ema_decay,
    )


def samples_of(data: Data) -> Array:
    return jr.uniform(jr.key(1), (4096, *data.shape))


def state_of(trainer: Trainer, data: Data) -> TrainState:
    sigmoid = jax.nn.sigmoid
    generator = otjax.nn.MLPGenerator(
        data.latent, data.shape, final_activation=sigmoid, key=jr.key(2)
    )
    critic = otjax.nn.MLPCritic(data.shape, key=jr.key(3))
    return trainer.init(generator, critic, key=jr.key(4))


def game_of(state: TrainState, samples: Array, recipe: Recipe, compiled: bool) -> Game:
    """The same networks, with the same weights, in PyTorch."""
    layers = lambda linears: [(np.asarray(l.weight), np.asarray(l.bias)) for l in linears]
    generator = network(layers(state.generator.mlp.layers), torch.nn.ReLU(), torch.nn.Sigmoid())
    # A scalar layer of Equinox has a bias of shape (1,), as PyTorch's of one output.
    critic = network(layers(state.critic.layers), torch.nn.SiLU(), torch.nn.Identity())
    return Game(generator, critic, tensor(samples), recipe, compiled)


def tensor(array: Array) -> torch.Tensor:
    """An array with one axis of samples and one of features."""
    host = torch.from_numpy(np.array(array)).reshape(len(array), -1)
    return host.to(torch.get_default_device())


def draws_of_step(
    trainer: Trainer, state: TrainState, samples: Array
) -> tuple[list[Draws], torch.Tensor]:
    """What the trainer's next step draws for each critic update, and the generator's latents."""
    key_critic, _, key_latents = jr.split(state.key_at(state.step), 3)
    updates = []
    for key in jr.split(key_critic, trainer.n_critic):
        key_real, key_fake, key_loss = jr.split(key, 3)
        share = jr.uniform(key_loss, (trainer.batch_size, 1))
        real = batch_of(samples, trainer.batch_size, key_real)
        drawn = (real, trainer.latents(key_fake), share)
        updates.append(Draws(*map(tensor, drawn)))
    return updates, tensor(trainer.latents(key_latents))


def disagreement(trainer: Trainer, state: TrainState, samples: Array, game: Game) -> float:
    """The largest difference of a loss, relative to its size or 1, over two whole steps."""
    worst = 0.0
    for _ in range(2):
        updates, latents = draws_of_step(trainer, state, samples)
        state, metrics = trainer.step(state, samples)
        critic_losses = [game.update_critic(update) for update in updates]
        theirs = float(critic_losses[-1]), float(game.update_generator(latents))
        ours = float(metrics["critic_loss"]), float(metrics["generator_loss"])
        for a, b in zip(ours, theirs, strict=True):
            difference = abs(a - b) / max(1, abs(b))
            worst = math.inf if math.isnan(difference) else max(worst, difference)
    return worst


def side_of_trainer(trainer: Trainer, state: TrainState, samples: Array) -> Side:
    states = [state]

    def steps(count: int) -> None:
        for _ in range(count):
            states[0], metrics = trainer.step(states[0], samples)
        jax.block_until_ready((states[0], metrics))

    return Side("otjax", steps)


def side_of_game(name: str, game: Game, threads: int) -> Side:
    def steps(count: int) -> None:
        torch.set_num_threads(threads)
        for _ in range(count):
            game.step()
        if torch.get_default_device().type == "cuda":
            torch.cuda.synchronize()

    return Side(name, steps)


def speeds(sides: list[Side], options: Options) -> dict[str, list[float]]:
    """Steps a second of each side in each window, in turns, so that drifts meet all."""
    counts, found = {}, {side.name: [] for side in sides}
    for side in sides:
        side.steps(3)  # compiles
        begin = time.perf_counter()
        side.steps(10)
        each = (time.perf_counter() - begin) / 10
        counts[side.name] = max(5, round(options.window_s / each))
    for _ in range(options.windows):
        for side in sides:
            time.sleep(0.3)  # threads of the one before go idle
            side.steps(2)
            begin = time.perf_counter()
            side.steps(counts[side.name])
            found[side.name].append(counts[side.name] / (time.perf_counter() - begin))
    return found


def row(data: Data, batch: int, options: Options) -> dict[str, Any]:
    """The check and the speeds of one kind of data and one size of batch."""
    recipe = recipe_of(data, batch)
    trainer, samples = trainer_of(recipe), samples_of(data)
    state = state_of(trainer, data)
    games = {"PyTorch": game_of(state, samples, recipe, compiled=False)}
    if options.compile:
        games["PyTorch, compiled"] = game_of(state, samples, recipe, compiled=True)
    differences = {
        name: disagreement(trainer, state, samples, game) for name, game in games.items()
    }
    sides = [side_of_trainer(trainer, state, samples)]
    sides += [side_of_game(name, game, THREADS) for name, game in games.items()]
    on_host = torch.get_default_device().type == "cpu"
    if on_host and THREADS > 1:  # on small arrays threads can cost more than they bring
        sides.insert(2, side_of_game("PyTorch, 1 thread", games["PyTorch"], 1))
    windows = speeds(sides, options)
    medians = {name: statistics.median(values) for name, values in windows.items()}
    rival = max((name for name in medians if name != "otjax"), key=lambda name: medians[name])
    return {
        "data": data.name,
        "batch": batch,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "steps_per_second": medians,
        "windows": windows,
        "faster_rival": rival,
        "ratio": medians["otjax"] / medians[rival],
        "disagreement": differences,
        "agrees": max(differences.values()) <= AGREE_WITHIN,
    }


def table(rows: list[dict[str, Any]]) -> str:
    names = list(dict.fromkeys(name for r in rows for name in r["steps_per_second"]))
    lines = [
        "| data | batch | " + " | ".join(names) + " | otjax / faster PyTorch | losses differ by |",
        "|:--|--:|" + "--:|" * (len(names) + 2),
    ]
    for r in rows:
        cells = " | ".join(f"{r['steps_per_second'].get(name, math.nan):.1f}" for name in names)
        worst = max(r["disagreement"].values())
        lines.append(f"| {r['data']} | {r['batch']} | {cells} | {r['ratio']:.2f} | {worst:.0e} |")
    return "\n".join(lines) + "\n"


def merged(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """All rows, sorted; of those of the same data and batch the new one."""
    rows = {(r["data"], r["batch"]): r for r in [*old, *new]}
    return [rows[key] for key in sorted(rows)]


def main() -> int:
    options = tyro.cli(Options, description=__doc__)
    if options.quick:
        options = Options(**{**vars(options), **QUICK})
    if not options.batches or min(options.batches) < 1 or options.windows < 1:
        print("error: `batches` and `windows` must be positive numbers.", file=sys.stderr)
        return 2
    if jax.default_backend() != "cpu":
        if not torch.cuda.is_available():
            print("error: PyTorch finds no GPU; set JAX_PLATFORMS=cpu.", file=sys.stderr)
            return 2
        torch.set_default_device("cuda")
    torch.manual_seed(0)
    rows = []
    for data in DATA:
        for batch in options.batches:
            rows.append(row(data, batch, options))
            print(table(rows[-1:]), flush=True)
    suffix = "-quick" if options.quick else ""
    default = f"gan_speed_{describe_device()['slug']}{suffix}.json"
    output = options.output or pathlib.Path(__file__).parent / "results" / default
    agree = all(r["agrees"] for r in rows)
    rows = merged(json.loads(output.read_text())["rows"] if output.exists() else [], rows)
    report = {
        "machine": describe_device(),
        "threads": {"torch": THREADS, "cores": os.cpu_count()},
        "versions": {**versions(), "optax": optax.__version__, "torch": torch.__version__},
        "rows": rows,
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(report, indent=1) + "\n")
    output.with_suffix(".md").write_text(table(rows))
    print(f"steps a second\n\n{table(rows)}\nwrote {output}")
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
