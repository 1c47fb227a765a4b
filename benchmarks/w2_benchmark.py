"""The continuous W2 benchmark: neural maps beside the published ones, and beside the truth.

    python benchmarks/w2_benchmark.py --dimensions 2 4 8 --steps 20000
    python benchmarks/w2_benchmark.py --pairs FOLDER --dimensions 64      # the published pairs
    python benchmarks/w2_benchmark.py --gaussian --dimensions 2 16 64

The pairs are those of Korotin et al. (NeurIPS 2021, arXiv:2106.01954), read from files of the
published parameters, or pairs of the same kind that are drawn here, or Gaussians. Only with the
first are the published numbers those of the very same pairs. A record says what was run; one of the
same pair, dimension, method and network is replaced.
"""

import datetime
import json
import pathlib
import sys
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
import tyro
from accelerator import describe_device, versions
from jaxtyping import Array, Float
from w2 import pairs as w2

import otjax
from otjax import neural


SCORED_ON = 32_768
# The best L2-UVP of a published solver, in percent.
PUBLISHED = {2: 0.1, 4: 0.3, 8: 0.7, 16: 1.4, 64: 3.2}
METHODS = {"amortised": neural.Amortised, "cycle": neural.Cycle, "minmax": neural.MinMax}


@dataclass(frozen=True)
class Options:
    """Which pairs, which method, and how long."""

    dimensions: tuple[int, ...] = (2, 4, 8, 16, 64)
    """Dimensions of the pairs."""
    steps: int = 20_000
    """Steps of the descent."""
    batch: int = 1024
    """Samples of each distribution in a step."""
    learning_rate: float = 1e-2
    """Of Adam, at the start; it falls to 0 by a cosine."""
    method: str = "amortised"
    """Any of amortised, cycle and minmax."""
    free: bool = False
    """A network that need not be convex: half the squared norm and a multilayer perceptron."""
    pairs: pathlib.Path | None = None
    """A folder of published pairs; by default pairs are drawn."""
    gaussian: bool = False
    """Pairs of Gaussians instead."""
    seed: int = 0
    """Of the pairs drawn, the weights, and the samples."""
    output: pathlib.Path | None = None
    """The JSON file; by default benchmarks/results/w2_<device>.json."""


class Free(eqx.Module):
    """Half the squared norm and a perceptron: not convex by construction."""

    mlp: eqx.nn.MLP

    def __call__(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        return 0.5 * jnp.sum(jnp.square(x)) + self.mlp(x)


def checked(options: Options) -> Options:
    """The options, if they make sense.

    **Raises:** `ValueError`, naming the option.
    """
    if options.method not in METHODS:
        raise ValueError(f"`method` must be of {', '.join(METHODS)}, got {options.method}.")
    if not options.dimensions or min(options.dimensions) < 2:
        raise ValueError(f"`dimensions` must be 2 or more, got {options.dimensions}.")
    for name, least in (("steps", 1), ("batch", 2)):
        if getattr(options, name) < least:
            raise ValueError(f"`{name}` must be at least {least}, got {getattr(options, name)}.")
    if options.gaussian and options.pairs is not None:
        raise ValueError("`pairs` must be left out with `gaussian`.")
    return options


def pair_of(dim: int, options: Options) -> w2.Pair:
    if options.gaussian:
        return w2.gaussians(dim, options.seed)
    if options.pairs is not None:
        return w2.load(options.pairs, dim)
    return w2.draw(dim, options.seed)


def kind(options: Options) -> str:
    if options.gaussian:
        return "gaussian"
    return "drawn" if options.pairs is None else "published"


def networks_of(dim: int, options: Options) -> tuple[Any, Any] | None:
    """The default ones, or free ones."""
    if not options.free:
        return None
    width = max(2 * dim, 128)
    key_potential, key_predictor = jr.split(jr.key(options.seed))
    mlp = eqx.nn.MLP(dim, "scalar", width, 3, jax.nn.leaky_relu, key=key_potential)
    return Free(mlp), neural.NearIdentity(dim, width, key=key_predictor)


def optimiser_of(options: Options) -> optax.GradientTransformation:
    rate = optax.cosine_decay_schedule(options.learning_rate, options.steps)
    return optax.adam(rate, b2=0.99)


def scores(
    images: Float[Array, "n d"], truth: Float[Array, "n d"], x: Float[Array, "n d"]
) -> dict[str, float]:
    """The published metrics: the unexplained share of the variance in percent, and the cosine
    between displacements, both as ratios of means."""
    squares = lambda points: jnp.mean(jnp.sum(jnp.square(points), axis=1))
    moved, best = images - x, truth - x
    cos = jnp.mean(jnp.sum(moved * best, axis=1)) / jnp.sqrt(squares(moved) * squares(best))
    spread = jnp.sum(jnp.var(truth, axis=0))
    return {"l2_uvp": float(100 * squares(images - truth) / spread), "cos": float(cos)}


def run(dim: int, options: Options) -> dict[str, Any]:
    """The record of one pair."""
    pair = pair_of(dim, options)

    def source(key: Array) -> Array:
        return w2.sample(pair.source, key, options.batch)

    def target(key: Array) -> Array:
        return pair.map(source(key))

    key, key_test = jr.split(jr.key(options.seed))
    found = neural.neural_map(
        source,
        target,
        key=key,
        networks=networks_of(dim, options),
        method=METHODS[options.method](),
        descent=neural.Descent(max_steps=options.steps, optimiser=optimiser_of(options)),
        throw=False,
    )
    x = w2.sample(pair.source, key_test, SCORED_ON)
    truth = pair.map(x)
    moments = [moment for points in (x, truth) for moment in (points.mean(0), jnp.cov(points.T))]
    linear = otjax.gaussian_map(*moments)
    return {
        "dim": dim,
        "pair": kind(options),
        "method": options.method,
        "network": "free" if options.free else "convex",
        **scores(found.transport(x), truth, x),
        "linear": scores(linear(x), truth, x),
        "identity": scores(x, truth, x)["l2_uvp"],
        "value": float(found.value),
        "value_error": float(found.value_error),
        "truth": float(jnp.mean(jnp.sum(jnp.square(truth - x), axis=1))),
        "error": float(found.error),
        "residual": float(found.residual),
        "steps": options.steps,
        "batch": options.batch,
        "learning_rate": options.learning_rate,
        "scored_on": SCORED_ON,
        "seed": options.seed,
        "device": describe_device()["kind"],
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": versions(),
    }


def merged(old: list[dict[str, Any]], new: dict[str, Any]) -> list[dict[str, Any]]:
    """All records, sorted; of those of one pair, method and network the new one."""
    key = lambda record: tuple(record[name] for name in ("pair", "dim", "method", "network"))
    records = {key(record): record for record in [*old, new]}
    return [records[k] for k in sorted(records)]


def main() -> int:
    options = tyro.cli(Options, description=__doc__)
    default = f"w2_{describe_device()['slug']}.json"
    output = options.output or pathlib.Path(__file__).parent / "results" / default
    try:
        options = checked(options)
        records = json.loads(output.read_text())["records"] if output.exists() else []
        output.parent.mkdir(parents=True, exist_ok=True)
        for dim in options.dimensions:
            record = run(dim, options)
            published = PUBLISHED.get(dim) if record["pair"] == "published" else None
            print(
                f"D={dim} {record['pair']}, {record['method']}, {record['network']}: L2-UVP "
                f"{record['l2_uvp']:.2f} % (linear {record['linear']['l2_uvp']:.2f} %, published "
                f"{published}), cos {record['cos']:.4f}",
                flush=True,
            )
            records = merged(records, record)
            output.write_text(json.dumps({"records": records}, indent=1) + "\n")
    except (KeyError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
