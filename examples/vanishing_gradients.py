"""Shows why a generator needs a transport distance: the gradient that two losses leave it with.

    python examples/vanishing_gradients.py      # a minute on two CPU cores

Real samples lie on a vertical segment, generated ones on the same segment moved aside by a
distance: disjoint supports, however near (Arjovsky, Chintala and Bottou 2017, arXiv:1701.07875,
example 1). The Jensen-Shannon divergence is log 2 at every distance but 0, so as its critic learns,
the generator's gradient vanishes. W1 is the distance, and its gradient stays 1. For each distance
and loss a critic of its own is trained, all at once; `vanishing_gradients.png` and `table.json`
show what the generator would be told. Needs `otjax[examples]`.
"""

import dataclasses
import json
import math
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from common import check_seed, fail, make_directory, report_device, run_script
from evaluation import print_table
from jaxtyping import Array, Float
from matplotlib.figure import Figure
from tqdm import trange

from otjax.gan import JensenShannonGAN, Trainer, WGAN
from otjax.nn import LipschitzMLP, MLPCritic


LOSSES = ("JS, saturating", "JS, non-saturating", "W1")  # in the order of `gradients`
HEADINGS = ("d JS", "d JS non-sat", "d W1")  # the same in the table


@dataclasses.dataclass(frozen=True)
class Config:
    """The generator's gradient under the Jensen-Shannon divergence and under W1."""

    distances: tuple[float, ...] = (0.1, 0.25, 0.5, 1.0, 1.5, 2.0)  # between the two segments
    steps: int = 2000  # updates of each critic
    batch: int = 128  # samples in each of them
    width: int = 64  # of the two hidden layers of a critic
    learning_rate: float = 1e-3  # of Adam, for all critics
    seed: int = 0
    output: Path = Path("outputs/vanishing_gradients")  # directory for all that is written


class Critics(eqx.Module):
    """One critic of each kind and the state of its optimiser; arrays have an axis of distances."""

    jensen_shannon: MLPCritic
    jensen_shannon_opt_state: optax.OptState
    wasserstein: LipschitzMLP
    wasserstein_opt_state: optax.OptState


class Games(eqx.Module):
    """The critics' sides of the games, and what their generators would minimise."""

    saturating: Trainer
    non_saturating: Trainer
    wasserstein: Trainer

    def __init__(self, config: Config):
        self.saturating, self.non_saturating, self.wasserstein = (
            Trainer(
                objective,
                generator_optimiser=optax.identity(),  # the generator is held where it is
                critic_optimiser=optax.adam(config.learning_rate),
                latent=1,
                batch_size=config.batch,
            )
            for objective in (JensenShannonGAN(saturating=True), JensenShannonGAN(), WGAN())
        )

    def init(self, config: Config, key: Array) -> Critics:
        key_free, key_lipschitz = jr.split(key)
        free = MLPCritic(2, width=config.width, key=key_free)
        # 1-Lipschitz by construction: its slope bounds the estimate of W1 at every moment.
        lipschitz = LipschitzMLP(2, width=config.width, key=key_lipschitz)
        return Critics(
            free,
            self.saturating.init_critic(free),
            lipschitz,
            self.wasserstein.init_critic(lipschitz),
        )


def segment(distance: Float[Array, ""], heights: Float[Array, " n"]) -> Float[Array, "n 2"]:
    return jnp.stack([jnp.full_like(heights, distance), heights], axis=1)


def update(
    games: Games, critics: Critics, distance: Float[Array, ""], batch: int, key: Array
) -> tuple[Critics, dict[str, Array]]:
    """One update of both critics at one distance, and what they say of it."""
    key_real, key_fake, key_loss = jr.split(key, 3)
    real = segment(jnp.zeros(()), jr.uniform(key_real, (batch,)))
    heights = jr.uniform(key_fake, (batch,))
    fake = segment(distance, heights)
    free, free_opt_state, free_metrics = games.saturating.update_critic(
        critics.jensen_shannon, critics.jensen_shannon_opt_state, real, fake, key=key_loss
    )
    lipschitz, lipschitz_opt_state, lipschitz_metrics = games.wasserstein.update_critic(
        critics.wasserstein, critics.wasserstein_opt_state, real, fake, key=key_loss
    )

    def slope(trainer: Trainer, critic: MLPCritic | LipschitzMLP) -> Float[Array, ""]:
        """The derivative of the generator's loss in its one parameter, the distance."""

        def loss(distance: Float[Array, ""]):
            generator = lambda height: jnp.stack([distance, height])
            return trainer.objective.loss(generator, critic, real, lambda _: heights, key=key_loss)

        return jax.grad(loss, has_aux=True)(distance)[0]

    players = ((games.saturating, free), (games.non_saturating, free))
    players += ((games.wasserstein, lipschitz),)
    said = {
        "jensen_shannon": free_metrics["jensen_shannon"],
        "w1": lipschitz_metrics["w1"],
        "gradients": jnp.stack([slope(*player) for player in players]),
    }
    return Critics(free, free_opt_state, lipschitz, lipschitz_opt_state), said


@eqx.filter_jit
def advance(
    games: Games, critics: Critics, distances: Float[Array, " m"], batch: int, keys: Array
) -> tuple[Critics, dict[str, Array]]:
    """An update for each key, at all distances side by side."""
    arrays, rest = eqx.partition(critics, eqx.is_array)

    def one(arrays: Critics, distance: Float[Array, ""], key: Array):
        new, said = update(games, eqx.combine(arrays, rest), distance, batch, key)
        return eqx.filter(new, eqx.is_array), said

    def step(arrays: Critics, key: Array):
        return jax.vmap(one)(arrays, distances, jr.split(key, len(distances)))

    arrays, said = jax.lax.scan(step, arrays, keys)
    return eqx.combine(arrays, rest), said


def draw(distances: np.ndarray, said: dict[str, np.ndarray], path: Path) -> None:
    figure = Figure(figsize=(13, 4), layout="tight")
    learning, final, estimates = figure.subplots(1, 3)
    steps = np.arange(1, len(said["w1"]) + 1)
    middle = len(distances) // 2
    for loss, colour in zip(LOSSES, ("tab:red", "tab:orange", "tab:blue"), strict=True):
        gradient = np.abs(said["gradients"][:, :, LOSSES.index(loss)])
        learning.plot(steps, gradient[:, middle], color=colour, linewidth=0.8, label=loss)
        final.plot(distances, gradient[-1], "o-", color=colour, label=loss)
    learning.set(yscale="log", xlabel="critic updates", ylabel="size of the generator's gradient")
    learning.set_title(f"as the critics learn, at distance {distances[middle]:g}")
    final.set(yscale="log", xlabel="distance of the segments", title="after the last update")
    final.set_ylabel("size of the generator's gradient")
    estimates.plot(distances, said["w1"][-1], "o", color="tab:blue", label="W1, estimated")
    estimates.plot(distances, distances, color="tab:blue", label="W1, exact")
    js = said["jensen_shannon"][-1]
    estimates.plot(distances, js, "o", color="tab:red", label="JS, estimated")
    estimates.axhline(math.log(2), color="tab:red", label="JS, exact: log 2")
    estimates.set(xlabel="distance of the segments", ylabel="W1, or Jensen-Shannon (JS) in nats")
    estimates.set_title("what the critics measure")
    for axis in (learning, final, estimates):
        axis.grid(alpha=0.3)
        axis.legend()
    figure.savefig(path, dpi=120)


def check(config: Config) -> None:
    for name in ("steps", "batch", "width", "learning_rate"):
        if not 0 < getattr(config, name) < math.inf:
            fail(f"--{name.replace('_', '-')} must be positive, got {getattr(config, name)}.")
    if config.width % 2:
        fail(f"--width must be even, for features are sorted in pairs, got {config.width}.")
    check_seed(config.seed)
    if not config.distances or not all(0 < distance < math.inf for distance in config.distances):
        fail(f"--distances must be positive and finite, got {config.distances}.")


def main(config: Config) -> None:
    check(config)
    make_directory(config.output)
    report_device()
    games, distances = Games(config), jnp.asarray(config.distances, jnp.float32)
    key_init, key_steps = jr.split(jr.key(config.seed))
    critics = eqx.filter_vmap(lambda key: games.init(config, key))(
        jr.split(key_init, len(distances))
    )
    stages = math.gcd(config.steps, 20)  # of equal length: one program serves them all
    keys, parts = jr.split(key_steps, config.steps).reshape(stages, -1), []
    for stage in (bar := trange(stages, unit="stage")):
        critics, part = advance(games, critics, distances, config.batch, keys[stage])
        parts.append(jax.device_get(part))
        if not all(np.isfinite(value).all() for value in parts[-1].values()):
            raise SystemExit(
                f"error: a critic became non-finite in stage {stage + 1}. Lower --learning-rate."
            )
        bar.set_postfix(w1=np.array2string(parts[-1]["w1"][-1], precision=2))
    said = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    table = {
        f"distance {distance:g}": {
            "JS": float(said["jensen_shannon"][-1, place]),
            "W1": float(said["w1"][-1, place]),
            **dict(zip(HEADINGS, map(float, said["gradients"][-1, place]), strict=True)),
        }
        for place, distance in enumerate(config.distances)
    }
    draw(np.asarray(config.distances), said, config.output / "vanishing_gradients.png")
    report = {"config": dataclasses.asdict(config), "table": table}
    (config.output / "table.json").write_text(json.dumps(report, default=str, indent=1) + "\n")
    print("estimates (exact: JS log 2 = 0.693, W1 the distance), and the generator's gradients:")
    print(f"the first two columns, and {', '.join(HEADINGS)}, of losses {'; '.join(LOSSES)}")
    print_table(table)
    print(f"written to {config.output}")


if __name__ == "__main__":
    run_script(main, Config)
