"""Do critics that promise a slope of at most one keep it? The largest slope that can be found.

    python benchmarks/lipschitz.py [--quick] [--output FILE]

Each critic of `otjax.nn` that is 1-Lipschitz by construction is trained to tell two measures apart,
with steps far longer than one would take. Before, during and after that are sought: the largest
norm of its gradient at 100,000 random points; the largest on the way from the best of them, by
steps along the gradient of that norm and, as it is piecewise constant for most of these critics,
random ones; and the largest slope of pairs of points that climb it. None may exceed 1 + 1e-4.
"""

import datetime
import json
import pathlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import equinox as eqx
import jax
import jax.lax as lax
import jax.numpy as jnp
import jax.random as jr
import optax
import tyro
from accelerator import describe_device, versions
from jaxtyping import Array, Float

from otjax import gan, nn


BOUND = 1 + 1e-4
SCALES = (1.0, 0.1, 0.01)  # of random steps; the spread of the points is 3
AT_ONCE = 1000

Critic: TypeAlias = Callable[[Array], Array]


@dataclass(frozen=True)
class Options:
    """How hard is sought."""

    points: int = 100_000
    """Random points."""
    seekers: int = 200
    """The best of these go on."""
    rounds: int = 100
    """Steps of each."""
    updates: int = 300
    """Of the training, between a first and a last search."""
    searches: int = 3
    """How often is sought, the first and the last included."""
    output: pathlib.Path | None = None
    """The JSON file; by default benchmarks/results/lipschitz_<device>.json, with a table beside."""
    quick: bool = False
    """Few points, two searches: does it run?"""


QUICK = {"points": 2000, "seekers": 20, "rounds": 10, "updates": 20, "searches": 2}


class Kind(NamedTuple):
    """A critic, and the shape of its samples."""

    make: Callable[[Array], Critic]
    shape: tuple[int, ...]


def spectral(key: Array) -> Critic:
    # ReLU: the slope of SiLU reaches 1.1.
    critic = nn.MLPCritic(16, width=64, depth=2, activation=jax.nn.relu, key=key)
    return nn.spectral_norm(critic)


KINDS = {
    "LipschitzMLP, pairs": Kind(lambda key: nn.LipschitzMLP(16, key=key), (16,)),
    "LipschitzMLP, full sort": Kind(
        lambda key: nn.LipschitzMLP(16, group_size=128, key=key), (16,)
    ),
    "LipschitzMLP, depth 6": Kind(
        lambda key: nn.LipschitzMLP(16, width=64, depth=6, key=key), (16,)
    ),
    "LipschitzConv": Kind(lambda key: nn.LipschitzConv(1, 8, width=8, key=key), (1, 8, 8)),
    "spectral_norm(MLPCritic), ReLU": Kind(spectral, (16,)),
}


class Found(NamedTuple):
    """The largest slopes."""

    at_random_points: Float[Array, ""]
    sought: Float[Array, ""]
    of_pairs: Float[Array, ""]


def norm(x: Float[Array, "..."]) -> Float[Array, ""]:
    return jnp.sqrt(jnp.sum(jnp.square(x)) + 1e-30)


def sought(critic: Critic, start: Float[Array, "..."], rounds: int, key: Array) -> Float[Array, ""]:
    """The largest gradient norm on the way from one point: the best of several steps each time."""
    slope = lambda x: norm(jax.grad(critic)(x))

    def step(carry: tuple[Array, Array], key: Array) -> tuple[tuple[Array, Array], None]:
        x, _ = carry
        uphill = jax.grad(slope)(x)
        uphill = uphill / norm(uphill)
        noise = jr.normal(key, (len(SCALES), *x.shape))
        moves = [s * move for s, n in zip(SCALES, noise, strict=True) for move in (uphill, n)]
        points = jnp.stack([x, *(x + move for move in moves)])
        slopes = jax.vmap(slope)(points)
        best = jnp.argmax(slopes)
        return (points[best], slopes[best]), None

    (_, best), _ = lax.scan(step, (start, slope(start)), jr.split(key, rounds))
    return best


def slope_of_pair(critic: Critic, pair: Float[Array, "2 ..."], rounds: int) -> Float[Array, ""]:
    """The largest slope between two points that climb it."""

    def slope(pair: Float[Array, "2 ..."]) -> Float[Array, ""]:
        # Nearer points would show the rounding of their scores.
        return jnp.abs(critic(pair[0]) - critic(pair[1])) / jnp.maximum(
            norm(pair[0] - pair[1]), 0.1
        )

    def step(pair: Array, _: None) -> tuple[Array, Array]:
        value, uphill = jax.value_and_grad(slope)(pair)
        return pair + 0.1 * uphill / norm(uphill), value

    return jnp.max(lax.scan(step, pair, length=rounds)[1])


@eqx.filter_jit
def search(critic: Critic, shape: tuple[int, ...], options: Options, key: Array) -> Found:
    """The largest slopes that were found."""
    key_points, key_steps = jr.split(key)
    points = 3 * jr.normal(key_points, (options.points, *shape))
    slopes = lax.map(lambda x: norm(jax.grad(critic)(x)), points, batch_size=AT_ONCE)
    best = points[lax.top_k(slopes, options.seekers)[1]]
    keys = jr.split(key_steps, options.seekers)
    climbed = jax.vmap(lambda x, key: sought(critic, x, options.rounds, key))(best, keys)
    pairs = points[: 2 * options.seekers].reshape(-1, 2, *shape)
    of_pairs = jax.vmap(lambda pair: slope_of_pair(critic, pair, options.rounds))(pairs)
    return Found(jnp.max(slopes), jnp.max(climbed), jnp.max(of_pairs))


def trained(critic: Critic, shape: tuple[int, ...], updates: int) -> tuple[Critic, float]:
    """The critic some updates later, and its estimate of W1, which shows that it learns."""
    trainer = gan.Trainer(
        gan.WGAN(),
        generator_optimiser=optax.sgd(0.0),
        critic_optimiser=optax.adam(0.03),
        latent=1,
        batch_size=64,
    )
    arrays, static = eqx.partition(critic, eqx.is_inexact_array)

    @eqx.filter_jit
    def run(arrays: Any) -> tuple[Any, Array]:
        def update(carry: tuple[Any, Any], key: Array) -> tuple[tuple[Any, Any], Array]:
            arrays, opt_state = carry
            key_real, key_fake = jr.split(key)
            real = jr.normal(key_real, (64, *shape))
            # A ring around the cloud: its potential is no plane.
            fake = 2 * jr.normal(key_fake, (64, *shape)) + 0.5
            critic, opt_state, metrics = trainer.update_critic(
                eqx.combine(arrays, static), opt_state, real, fake, key=key
            )
            return (eqx.filter(critic, eqx.is_inexact_array), opt_state), metrics["w1"]

        carry = arrays, trainer.init_critic(eqx.combine(arrays, static))
        (arrays, _), w1 = lax.scan(update, carry, jr.split(jr.key(5), updates))
        return arrays, jnp.mean(w1[-10:])

    arrays, w1 = run(arrays)
    return eqx.combine(arrays, static), float(w1)


def records(name: str, options: Options) -> list[dict[str, Any]]:
    """One record for each search."""
    kind, found = KINDS[name], []
    critic, w1 = kind.make(jr.key(0)), None
    between = max(1, options.updates // (options.searches - 1))
    for number in range(options.searches):
        if number:
            critic, w1 = trained(critic, kind.shape, between)
        slopes = search(critic, kind.shape, options, jr.key(number))._asdict()
        slopes = {where: float(slope) for where, slope in slopes.items()}
        found.append(
            {
                "critic": name,
                "updates": number * between,
                **slopes,
                "w1": w1,
                "kept": max(slopes.values()) <= BOUND,
            }
        )
    return found


def table(found: list[dict[str, Any]]) -> str:
    lines = [
        "| critic | updates | W1 | at random points | sought | of pairs | at most 1 + 1e-4 |",
        "|:--|--:|--:|--:|--:|--:|:--|",
    ]
    for r in found:
        w1 = "" if r["w1"] is None else f"{r['w1']:.2f}"
        slopes = " | ".join(f"{r[name]:.6f}" for name in Found._fields)
        kept = "yes" if r["kept"] else "NO"
        lines.append(f"| {r['critic']} | {r['updates']} | {w1} | {slopes} | {kept} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    options = tyro.cli(Options, description=__doc__)
    if options.quick:
        options = Options(**{**vars(options), **QUICK})
    if not 2 * options.seekers <= options.points or options.searches < 2:
        print("error: `points` must be twice `seekers`, `searches` at least 2.", file=sys.stderr)
        return 2
    found = []
    for name in KINDS:
        found += records(name, options)
        print(table(found[-options.searches :]), flush=True)
    report = {
        "machine": describe_device(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "options": {name: value for name, value in vars(options).items() if name != "output"},
        "bound": BOUND,
        "records": found,
    }
    suffix = "-quick" if options.quick else ""
    default = f"lipschitz_{describe_device()['slug']}{suffix}.json"
    output = options.output or pathlib.Path(__file__).parent / "results" / default
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(report, indent=1) + "\n")
    output.with_suffix(".md").write_text(table(found))
    print(f"{table(found)}\nwrote {output}")
    return 0 if all(r["kept"] for r in found) else 1


if __name__ == "__main__":
    sys.exit(main())
