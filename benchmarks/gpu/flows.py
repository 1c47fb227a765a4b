"""Times of training steps of flows and drifts, and what of them the transport takes."""

from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.lax as lax
import jax.numpy as jnp
import jax.random as jr
import optax
from accelerator import compiled, Record, timed
from jaxtyping import Array

import otjax
from otjax import flow

from .problems import Scale


TRAINED_ON = 256  # pairs of a step, whatever the size of the plan
DIMENSION = 16  # of the points that are coupled
STEPS = 10  # of one measurement


class Field(eqx.Module):
    layers: eqx.nn.MLP

    def __call__(self, t: Array, x: Array) -> Array:
        return self.layers(jnp.append(x, t))


def stepped(loss: Callable[..., Any], model: Any, repeats: int, carried: Any = None) -> Record:
    """The time of one step of Adam, of several in one scan. `loss(model, carried, key)` returns
    what the next step gets as `carried`."""
    arrays, static = eqx.partition(model, eqx.is_array)
    optimiser = optax.adam(1e-3)

    def step(state: Any, key: Array) -> tuple[Any, Any]:
        arrays, moments, carried = state
        of = lambda arrays: loss(eqx.combine(arrays, static), carried, key)
        (_, (carried, told)), gradient = jax.value_and_grad(of, has_aux=True)(arrays)
        updates, moments = optimiser.update(gradient, moments)
        return (optax.apply_updates(arrays, updates), moments, carried), told

    arguments = (arrays, optimiser.init(arrays), carried), jr.split(jr.key(1), STEPS)
    run, compile_s = compiled(lambda state, keys: lax.scan(step, state, keys), *arguments)
    (_, told), times = timed(run, *arguments, repeats=repeats)
    numbers = {name: float(jnp.mean(value)) for name, value in told.items()}
    return {"compile_s": compile_s, **times, "run_s": times["run_s"] / STEPS, "told": numbers}


def couplings(scale: Scale) -> Iterator[Record]:
    """Steps of flow matching whose pairs are those of a plan between n and n fresh samples; what
    they take longer than with random pairs is the coupling's."""
    for n in scale.couplings:
        some = min(n, TRAINED_ON)
        kinds: dict[str, flow.AbstractCoupling] = {"independent": flow.Independent()}
        draws: dict[str, flow.AbstractDraw] = {"rows": flow.Rows(), "assignment": flow.Assignment()}
        for name, draw in draws.items():
            kinds[name] = flow.Minibatch(epsilon=0.05, draw=draw, num_pairs=some)
        alone = 0.0
        for name, coupling in kinds.items():

            def loss(field: Field, carried: None, key: Array, n=n, some=some, coupling=coupling):
                keys = jr.split(key, 4)
                x0 = jr.normal(keys[0], (n, DIMENSION))
                x1 = 3 * jr.normal(keys[1], (n, DIMENSION)) ** 3
                pairs = coupling.pairs(keys[2], x0, x1)
                starts, ends = x0[pairs.i[:some]], x1[pairs.j[:some]]
                value = flow.velocity_loss(field, keys[3], starts, ends, coupling=flow.Paired())
                told = {"relative_cost": pairs.relative_cost, "error": pairs.marginal_error}
                return value, (carried, told)

            layers = eqx.nn.MLP(DIMENSION + 1, DIMENSION, 256, 3, jax.nn.silu, key=jr.key(0))
            found = stepped(loss, Field(layers), scale.repeats)
            alone = alone or found["run_s"]
            yield {
                "name": f"flow matching: plan of {n} x {n}, d = {DIMENSION}, {name}",
                **found,
                "coupling_s": found["run_s"] - alone,
                "passed": found["told"]["relative_cost"] <= 1.01,
            }


def drifts(scale: Scale) -> Iterator[Record]:
    """Steps of a one-step generator along the field of a drift alone; and with what the drift tells
    of itself, which a trainer logs, warm-started where it can be."""
    n, d = scale.drift
    data = jr.uniform(jr.key(2), (4 * n, d))
    generator = otjax.nn.MLPGenerator(64, (d,), width=256, key=jr.key(0))
    mean_shift, sinkhorn = flow.MeanShift((0.05,)), flow.SinkhornDrift(0.05 * d / 6)
    for name, drift, tells in (
        ("MeanShift", mean_shift, False),
        ("SinkhornDrift", sinkhorn, False),
        ("MeanShift, with its report", mean_shift, True),
        ("SinkhornDrift, with its report", sinkhorn, True),
    ):

        def loss(generator: Any, known: Any, key: Array, drift=drift, tells=tells):
            key_data, key_latents = jr.split(key)
            batch = data[jr.randint(key_data, (n,), 0, len(data))]
            latents = jr.normal(key_latents, (n, 64))
            if not tells:
                value = flow.drift_loss(generator, batch, drift, latents=latents)
                return value, (known, {"size": jnp.sqrt(value)})
            value, found = flow.drift_loss(
                generator, batch, drift, latents=latents, init=known, has_aux=True
            )
            known = None if known is None else found
            return value, (known, {"size": found.size, "w2": found.w2})

        known = None
        if tells and isinstance(drift, flow.SinkhornDrift):
            known = drift.evaluate(jax.vmap(generator)(jr.normal(jr.key(3), (n, 64))), data[:n])
        found = stepped(loss, generator, scale.repeats, known)
        passed = bool(jnp.isfinite(found["told"]["size"]))
        yield {"name": f"drift: {name}, {n} samples, d = {d}", **found, "passed": passed}
