"""The protocols of published flows, with their numbers beside ours.

    python benchmarks/flow_published.py [--parts toy tasks ...] [--quick] [--output FILE]

| part | protocol |
| --- | --- |
| `irreducible` | what couplings leave of the loss: eight Gaussians to moons, 1000 fixed points each (notebook of Tong et al., arXiv:2302.00482) |
| `toy` | eight Gaussians to moons by couplings that know of a condition and do not (Cheng and Schwing 2025, arXiv:2503.10636, figure 1), ten seeds |
| `tasks` | four tasks in the plane, path energies (Tong et al., table 2), five seeds |
| `bridge` | the Schrödinger bridge between Gaussians (Shi et al. 2023, arXiv:2303.16852) |
| `dynamic` | the translation of a Gaussian by Benamou and Brenier's problem, 64 x 64 x 32 |

Seeds are trained side by side, under `jax.vmap`. Nothing depends on how fast the machine is: no
number here is a time. The records go to one JSON file, each part replacing its own.
"""  # noqa: E501

import datetime
import json
import math
import pathlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import equinox as eqx
import jax
import jax.lax as lax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import ot
import tyro
from accelerator import describe_device, versions
from exact_w2 import Evaluations, results
from jaxtyping import Array, Float

import otjax
from otjax import flow


@dataclass(frozen=True)
class Options:
    """How much is trained."""

    parts: tuple[str, ...] = ("irreducible", "bridge", "dynamic", "toy", "tasks")
    steps: int = 20_000
    """Of each training."""
    seeds: int | None = None
    """How many; by default those of the protocol."""
    points: int | None = None
    """Of each cloud that is evaluated; by default those of the protocol."""
    plan: int = 1024
    """Samples of each side in a plan of `toy` and `tasks`; their pairs serve 256 a step."""
    epochs: int = 1
    """How often these pairs are gone through before the next plan."""
    learning_rate: float | None = None
    """Of `toy` and `tasks`, with a decay to zero by a cosine; by default that of the protocol,
    which is constant."""
    rows: tuple[str, ...] = ()
    """Of `toy`, such as class/conditional, which are a part of their own then; none is all."""
    workers: int = 1
    """Processes that evaluate while the next is trained."""
    output: pathlib.Path | None = None
    """The JSON file; by default benchmarks/results/flow.json."""
    quick: bool = False
    """Few steps, seeds and points: does it run?"""


QUICK = {"steps": 20, "seeds": 2, "points": 100, "plan": 512}
BATCH = 256
Sampler = Callable[[Array, int], Array]


# Samples


def gaussians(radius: float, spread: float) -> Sampler:
    def draw(key: Array, num: int) -> Array:
        key_mode, key_noise = jr.split(key)
        angles = jr.randint(key_mode, (num,), 0, 8) * (math.pi / 4)
        means = radius * jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=1)
        return means + spread * jr.normal(key_noise, (num, 2))

    return draw


def labelled_moons(noise: float, scale: float, shift: float) -> Callable:
    """Points and which of the two half circles they are of, as scikit-learn has them."""

    def draw(key: Array, num: int) -> tuple[Array, Array]:
        key_side, key_angle, key_noise = jr.split(key, 3)
        inner = jr.bernoulli(key_side, shape=(num,))
        angles = jr.uniform(key_angle, (num,), maxval=math.pi)
        x = jnp.where(inner, 1 - jnp.cos(angles), jnp.cos(angles))
        y = jnp.where(inner, 0.5 - jnp.sin(angles), jnp.sin(angles))
        points = jnp.stack([x, y], axis=1) + noise * jr.normal(key_noise, (num, 2))
        return scale * points + shift, inner.astype(jnp.int32)

    return draw


def moons(noise: float, scale: float, shift: float) -> Sampler:
    draw = labelled_moons(noise, scale, shift)
    return lambda key, num: draw(key, num)[0]


def standard_moons(key: Array, num: int) -> Array:
    """Moons of the overall mean 0 and standard deviation 7, which over all coordinates are those
    of a large sample."""
    draw = moons(0.1, 1.0, 0.0)
    large = draw(jr.key(0), 100_000)
    return 7 * (draw(key, num) - jnp.mean(large)) / jnp.std(large)


def s_curve(key: Array, num: int) -> Array:
    """The two coordinates in which scikit-learn's S is an S, times 1.5."""
    key_angle, key_noise = jr.split(key)
    t = 3 * math.pi * (jr.uniform(key_angle, (num,)) - 0.5)
    points = jnp.stack([jnp.sin(t), jnp.sign(t) * (jnp.cos(t) - 1)], axis=1)
    return 1.5 * (points + 0.05 * jr.normal(key_noise, (num, 2)))


def normal(key: Array, num: int) -> Array:
    return jr.normal(key, (num, 2))


TUTORIAL = gaussians(5.0, 0.1**0.25), labelled_moons(0.2, 3.0, -1.0)


# Training


class Field(eqx.Module):
    """A velocity of a time, a point, and a condition as numbers, where there is one."""

    layers: eqx.nn.MLP

    def __init__(
        self, width: int, depth: int, key: Array, *, condition_size: int = 0, act=jax.nn.selu
    ):
        self.layers = eqx.nn.MLP(3 + condition_size, 2, width, depth, act, key=key)

    def __call__(self, t: Array, x: Array, *condition: Array) -> Array:
        numbers = [jnp.ravel(one).astype(x.dtype) for one in condition]
        return self.layers(jnp.concatenate([x, t[None], *numbers]))


Loss = Callable[[Field, Array, Any], Array]


def one_key(key: Array) -> Array:
    """A batch that is drawn by the loss itself."""
    return key[None]


def trained(
    make: Callable[[Array], Field],
    loss: Loss,
    optimiser: optax.GradientTransformation,
    steps: int,
    seeds: list[int],
    draw: Callable[[Array], Any] = one_key,
) -> tuple[Field, Float[Array, "seeds steps"]]:
    """Fields of all seeds side by side, and their losses. `draw` makes, with a key, what several
    steps see in turn, along a first axis; `loss` has another key, and what its step sees."""

    @eqx.filter_jit
    def run(keys: Array) -> tuple[Any, Array]:
        static = eqx.partition(make(keys[0]), eqx.is_array)[1]

        def one(key: Array) -> tuple[Any, Array]:
            key_field, key_steps = jr.split(key)
            arrays = eqx.filter(make(key_field), eqx.is_array)

            def step(state: tuple[Any, Any], seen: tuple[Array, Any]) -> tuple[Any, Array]:
                arrays, moments = state
                of = lambda arrays: loss(eqx.combine(arrays, static), *seen)
                value, gradient = jax.value_and_grad(of)(arrays)
                updates, moments = optimiser.update(gradient, moments, arrays)
                return (optax.apply_updates(arrays, updates), moments), value

            def turn(state: tuple[Any, Any], index: Array) -> tuple[Any, Array]:
                key_draw, key_loss = jr.split(jr.fold_in(key_steps, index))
                batches = draw(key_draw)
                keys = jr.split(key_loss, len(jax.tree.leaves(batches)[0]))
                return lax.scan(step, state, (keys, batches))

            state = arrays, optimiser.init(arrays)
            each = len(jax.tree.leaves(jax.eval_shape(draw, key))[0])
            (arrays, _), losses = lax.scan(turn, state, jnp.arange(-(-steps // each)))
            return arrays, losses.reshape(-1)

        arrays, losses = jax.vmap(one)(keys)
        return eqx.combine(arrays, static), losses

    return run(jnp.stack([jr.key(seed) for seed in seeds]))


def paired(
    draw0: Sampler,
    draw1: Callable[[Array, int], tuple[Array, Array | None]],
    coupling: flow.AbstractCoupling,
    size: int,
    epochs: int,
) -> Callable[[Array], Any]:
    """Pairs of `size` fresh samples of each side in batches, gone through several times in another
    order: starts, ends, and what the ends come with."""

    def draw(key: Array) -> Any:
        keys = jr.split(key, 3 + epochs)
        starts, (ends, condition) = draw0(keys[0], size), draw1(keys[1], size)
        pairs = coupling.pairs(keys[2], starts, ends, condition)
        several = starts[pairs.i], ends[pairs.j], None if condition is None else condition[pairs.j]
        order = jnp.concatenate([jr.permutation(key, len(pairs.i)) for key in keys[3:]])
        batches = lambda one: one[order].reshape(-1, min(BATCH, size), *one.shape[1:])
        return jax.tree.map(batches, several)

    return draw


def optimiser_of(options: Options, protocol: float, decay: float) -> optax.GradientTransformation:
    rate = protocol
    if options.learning_rate is not None:
        rate = optax.cosine_decay_schedule(options.learning_rate, options.steps)
    return optax.adamw(rate, weight_decay=decay)


def moved(fields: Field, x0: Array, conditions: tuple[Array, ...], solver: Any, steps: int) -> Any:
    """What `integrate` says for each seed; all arrays have an axis of seeds."""
    carry = lambda field, x0, *condition: flow.integrate(
        field, x0, *condition, solver=solver, num_steps=steps
    )
    return eqx.filter_jit(eqx.filter_vmap(carry))(fields, x0, *conditions)


def told(values: list[float]) -> dict[str, float]:
    return {"mean": float(np.mean(values)), "std": float(np.std(values, ddof=len(values) > 1))}


# Parts


def irreducible(options: Options) -> Iterator[dict[str, Any]]:
    """Losses are per coordinate, as published: the mean over the last 500 steps."""
    published = {
        "full plan": 0.032, "batches of 128": 0.372, "batches of 64": 0.701,
        "epsilon 1": 0.306, "epsilon 10": 2.687, "epsilon 100": 7.222, "independent": 8.5,
    }  # fmt: skip
    num = min(options.points or 1000, 1000)
    draw0, draw1 = TUTORIAL
    x0, (x1, _) = draw0(jr.key(1), num), draw1(jr.key(2), num)
    costs = ot.dist(np.asarray(x0, np.float64), np.asarray(x1, np.float64), metric="sqeuclidean")
    partners = jnp.asarray(np.argmax(ot.emd([], [], costs), axis=1))

    def rows(coupling: flow.AbstractCoupling, size: int) -> Loss:
        def loss(field: Field, key: Array, _) -> Array:
            key_rows, key_loss = jr.split(key)
            starts = x0[jr.choice(key_rows, num, (min(size, num),), replace=False)]
            return flow.velocity_loss(field, key_loss, starts, x1, coupling=coupling)

        return loss

    def batches(size: int) -> Loss:
        coupling = flow.Minibatch(epsilon=0.003, draw=flow.Assignment())

        def loss(field: Field, key: Array, _) -> Array:
            keys, size_ = jr.split(key, 3), min(size, num)
            starts, ends = (
                x[jr.choice(key, num, (size_,), replace=False)]
                for x, key in zip((x0, x1), keys[:2], strict=True)
            )
            return flow.velocity_loss(field, keys[2], starts, ends, coupling=coupling)

        return loss

    def full(field: Field, key: Array, _) -> Array:
        key_rows, key_loss = jr.split(key)
        i = jr.choice(key_rows, num, (min(256, num),), replace=False)
        return flow.velocity_loss(field, key_loss, x0[i], x1[partners[i]], coupling=flow.Paired())

    def fresh(field: Field, key: Array, _) -> Array:
        keys = jr.split(key, 3)
        return flow.velocity_loss(field, keys[0], draw0(keys[1], 256), draw1(keys[2], 256)[0])

    losses = {"full plan": full, "batches of 128": batches(128), "batches of 64": batches(64)}
    for epsilon in (1.0, 10.0, 100.0):
        problem = otjax.EntropicProblem(otjax.PointCloud(x0, x1), epsilon=epsilon)
        coupling = flow.Semidiscrete(otjax.solve(problem, tolerance=1e-4))
        losses[f"epsilon {epsilon:.0f}"] = rows(coupling, 256)
    losses["independent"] = fresh
    make = lambda key: Field(64, 3, key)
    for name, loss in losses.items():
        seeds = list(range(options.seeds or 1))
        _, values = trained(make, loss, optax.adam(1e-3), options.steps, seeds)
        ours = 0.5 * np.mean(np.asarray(values)[:, -500:], axis=1)
        yield {"coupling": name, "loss": told(ours.tolist()), "published": published[name]}


def toy(options: Options) -> Iterator[dict[str, Any]]:
    """W2 squared of `points` generated ones to as many of the moons, by one step of Euler and by
    50 of the classical method of Runge and Kutta, in place of an adaptive one."""
    published = {
        ("none", "independent"): (6.232, 0.120), ("none", "plan"): (0.072, 0.050),
        ("class", "independent"): (2.573, 0.059), ("class", "plan"): (0.483, 0.462),
        ("class", "conditional"): (0.048, 0.018), ("x", "independent"): (0.732, 0.028),
        ("x", "plan"): (8.276, 2.143), ("x", "conditional"): (0.077, 0.013),
    }  # fmt: skip
    names = {"/".join(row) for row in published}
    if unknown := set(options.rows) - names:
        sys.exit(f"error: --rows are {', '.join(names)}, got {', '.join(unknown)}.")
    chosen = set(options.rows) or names
    draw0, draw1 = TUTORIAL
    seeds = list(range(options.seeds or 10))
    num = options.points or 10_000
    keys = jnp.stack([jr.fold_in(jr.key(seed), 1) for seed in seeds])
    plan = flow.Minibatch(epsilon=0.003, draw=flow.Assignment())

    def condition_of(kind: str, points: Array, labels: Array) -> Array | None:
        return {"none": None, "class": labels, "x": points[..., :1]}[kind]

    def coupling_of(kind: str, name: str) -> flow.AbstractCoupling:
        if name == "independent":
            return flow.Independent()
        if name == "plan":
            return plan
        # Of labels none may mix; of numbers a distance of 0.25 weighs as the costs themselves do.
        return flow.Conditional(jnp.inf if kind == "class" else 500.0, minibatch=plan)

    x0 = jax.vmap(lambda key: draw0(jr.fold_in(key, 0), num))(keys)
    x1, labels = jax.vmap(lambda key: draw1(jr.fold_in(key, 1), num))(keys)
    others, _ = jax.vmap(lambda key: draw1(jr.fold_in(key, 2), num))(keys)
    evaluations = Evaluations(options.workers)
    floor = evaluations.of(others, x1)
    waiting: list[tuple[dict[str, Any], dict[str, list]]] = []
    for kind, name in published:
        if f"{kind}/{name}" not in chosen:
            continue
        coupling = coupling_of(kind, name)
        size, epochs = (BATCH, 1) if name == "independent" else (options.plan, options.epochs)

        def labelled(key: Array, num: int, kind=kind) -> tuple[Array, Array | None]:
            points, labels = draw1(key, num)
            return points, condition_of(kind, points, labels)

        def loss(field: Field, key: Array, pairs) -> Array:
            return flow.velocity_loss(field, key, *pairs, coupling=flow.Paired())

        condition_size = 0 if kind == "none" else 1
        make = lambda key, size=condition_size: Field(
            128, 3, key, condition_size=size, act=jax.nn.silu
        )
        draw = paired(draw0, labelled, coupling, size, epochs)
        optimiser = optimiser_of(options, 3e-4, 0.0)
        fields, _ = trained(make, loss, optimiser, options.steps, seeds, draw)
        given = condition_of(kind, x1, labels)
        conditions = () if given is None else (given,)
        found = {
            title: evaluations.of(moved(fields, x0, conditions, solver, steps).samples, x1)
            for title, solver, steps in (("euler", flow.Euler(), 1), ("fine", flow.RK4(), 50))
        }
        waiting.append(({"condition": kind, "coupling": name}, found))
    yield {"floor": told(results(floor)), "points": num}
    for record, found in waiting:
        numbers = published[record["condition"], record["coupling"]]
        for (title, values), number in zip(found.items(), numbers, strict=True):
            record[title] = told(results(values)) | {"published": number}
        yield record


TASKS: dict[str, tuple[Sampler, Sampler, tuple[float, float]]] = {
    # Starts, ends, published NPE of OT-CFM and of I-CFM.
    "N -> 8 Gaussians": (normal, gaussians(5.0, 1.0), (0.018, 0.222)),
    "moons -> 8 Gaussians": (standard_moons, gaussians(12.0, 1.5), (0.053, 2.738)),
    "N -> moons": (normal, moons(0.05, 2.0, -1.0), (0.087, 0.841)),
    "N -> s-curve": (normal, s_curve, (0.027, 0.867)),
}


def tasks(options: Options) -> Iterator[dict[str, Any]]:
    """NPE = |path energy - W2^2| / W2^2, the path energy of 10,000 starts by Euler in 100 steps,
    W2^2 the mean over seeds of that of `points` samples of each law; fit: W2 of 1000, with its
    floor. Training sees fresh samples, where the published one has 10,000 of each side."""
    seeds = list(range(42, 42 + (options.seeds or 5)))
    num, test = options.points or 4000, min(options.points or 1000, 1000)
    evaluations = Evaluations(options.workers)
    for task, (draw0, draw1, published) in TASKS.items():
        keys = jnp.stack([jr.fold_in(jr.key(seed), 1) for seed in seeds])
        many = [(draw0(jr.fold_in(key, 0), num), draw1(jr.fold_in(key, 1), num)) for key in keys]
        distances = [evaluations.of(x0[None], x1[None])[0] for x0, x1 in many]
        x1 = jnp.stack([pair[1][:test] for pair in many])
        others = [draw1(jr.fold_in(key, 2), test) for key in keys]
        floor = evaluations.of(jnp.stack(others), x1)
        starts = jnp.stack([draw0(jr.fold_in(key, 3), 10_000) for key in keys])
        plan = flow.Minibatch(epsilon=0.003, draw=flow.Assignment())
        for name, coupling, size, epochs in (
            ("independent", flow.Independent(), BATCH, 1),
            ("plan", plan, options.plan, options.epochs),
        ):

            def loss(field: Field, key: Array, pairs) -> Array:
                return flow.velocity_loss(
                    field, key, *pairs, coupling=flow.Paired(), interpolant=flow.Linear(0.1)
                )

            make = lambda key: Field(64, 3, key)
            bare = lambda key, num, draw1=draw1: (draw1(key, num), None)
            draw = paired(draw0, bare, coupling, size, epochs)
            optimiser = optimiser_of(options, 1e-3, 1e-5)
            fields, _ = trained(make, loss, optimiser, options.steps, seeds, draw)
            found = moved(fields, starts, (), flow.Euler(), 100)
            energies = np.asarray(found.path_energy, np.float64)
            fit = evaluations.of(found.samples[:, :test], x1)
            distance = float(np.mean(results(distances)))
            roots = lambda squares: [math.sqrt(value) for value in results(squares)]
            yield {
                "task": task,
                "coupling": name,
                "w2_squared_of_the_laws": told(results(distances)),
                "path_energy": told(energies.tolist()),
                "npe": told((np.abs(energies - distance) / distance).tolist()),
                "npe_published": published[name == "independent"],
                "straightness": told(np.asarray(found.straightness, float).tolist()),
                "w2": told(roots(fit)),
                "w2_floor": told(roots(floor)),
            }


def bridge(options: Options) -> Iterator[dict[str, Any]]:
    """The light bridge of one component between N(-a, I) and N(a, I), a = 0.1, sigma = 1: its law
    of the end is known, and so is KL from what it should be."""
    a, num, steps = 0.1, options.points or 10_000, min(500, options.steps)
    optimiser = optax.adam(optax.cosine_decay_schedule(0.05, steps))

    @eqx.filter_jit
    def fit(start: flow.LightBridge, x0: Array, x1: Array) -> flow.LightBridge:
        def step(state, _):
            model, moments = state
            gradient = jax.grad(lambda m: flow.light_bridge_loss(m, x0, x1))(model)
            updates, moments = optimiser.update(gradient, moments)
            return (optax.apply_updates(model, updates), moments), None

        state = start, optimiser.init(eqx.filter(start, eqx.is_array))
        return lax.scan(step, state, None, length=steps)[0][0]

    for d in (2, 5, 20, 50):
        records = []
        for seed in range(options.seeds or 5):
            keys = jr.split(jr.key(seed), 2)
            x0, x1 = -a + jr.normal(keys[0], (num, d)), a + jr.normal(keys[1], (num, d))
            model = fit(flow.LightBridge(x1[:1], sigma=1.0), x0, x1)
            scales = np.exp(np.asarray(model.log_scales[0], np.float64))
            mean = np.asarray(model.means[0], np.float64) - scales * a
            variance = scales**2 + scales
            kl = 0.5 * np.sum(variance + (mean - a) ** 2 - 1 - np.log(variance))
            records.append((float(np.mean(scales)), 1000 * float(kl)))
        covariances, kls = zip(*records, strict=True)
        yield {
            "dimensions": d,
            "covariance": told(list(covariances)),
            "covariance_exact": (math.sqrt(5) - 1) / 2,
            "kl_x1000_at_the_end": told(list(kls)),
            "published_at_50": 8.75,
        }


def dynamic(options: Options) -> Iterator[dict[str, Any]]:
    side, times = (16, 9) if options.quick else (64, 33)
    centres = (jnp.arange(side) + 0.5) / side
    x, y = jnp.meshgrid(centres, centres, indexing="ij")
    for width, way in ((0.1, 0.3), (0.1, 0.5)):
        low, high = 0.5 - way / 2, 0.5 + way / 2
        a, b = (
            jnp.exp(-(jnp.square(x - m) + jnp.square(y - m)) / (2 * width**2)) for m in (low, high)
        )
        found = flow.benamou_brenier(a, b / jnp.sum(b) * jnp.sum(a), num_times=times)
        exact = 2 * way**2
        yield {
            "grid": [side, side, times - 1],
            "cost": float(found.cost),
            "exact": exact,
            "relative_error": float(found.cost) / exact - 1,
            "steps": int(found.num_steps),
            "residual": float(found.residual),
            "successful": bool(found.result == otjax.RESULTS.successful),
        }


PARTS: dict[str, Callable[[Options], Iterator[dict[str, Any]]]] = {
    part.__name__: part for part in (irreducible, bridge, dynamic, toy, tasks)
}


def main(options: Options) -> None:
    if options.quick:
        options = replace(options, **QUICK)
    unknown = set(options.parts) - set(PARTS)
    if unknown:
        sys.exit(f"error: --parts are {', '.join(PARTS)}, got {', '.join(sorted(unknown))}.")
    path = options.output or pathlib.Path(__file__).parent / "results" / "flow.json"
    report = json.loads(path.read_text()) if path.exists() else {}
    made_by = {"device": describe_device()["kind"], "versions": versions()}
    for name in options.parts:
        names = ("steps", "seeds", "points", "plan", "epochs", "learning_rate")
        settings = {name: getattr(options, name) for name in names}
        part: dict[str, Any] = {"date": str(datetime.date.today()), **made_by, **settings}
        part["records"] = []
        title = f"{name}: {', '.join(options.rows)}" if name == "toy" and options.rows else name
        for record in PARTS[name](options):
            print(name, json.dumps(record), flush=True)
            part["records"].append(record)
            # Whole after each record, so that an interrupted run leaves what it has.
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(report | {title: part}, indent=1) + "\n")
        report[title] = part
    print(f"written to {path}")


if __name__ == "__main__":
    main(tyro.cli(Options))
