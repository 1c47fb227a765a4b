"""Training a model on an objective, against a critic or none: one compiled step."""

import dataclasses
import operator
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.lax as lax
import jax.numpy as jnp
import jax.random as jr
import optax
from jaxtyping import Array, ArrayLike, Float, Int, PyTree, UInt32

from .._arrays import float_scalar, known_number
from ._batches import batch_of, Data, Gaussian, key_data
from ._objective import AbstractGame, AbstractObjective, generated
from ._parameters import all_finite, averaged, Metrics, moved, strong, trained, update


# Critic steps beyond this are a loop also in the compiled program, which else would grow with them.
_UNROLLED_UP_TO = 8


class TrainState(eqx.Module):
    """All that a training step reads and writes besides the data.

    Saved whole, by `equinox.tree_serialise_leaves`, it resumes to the same bits. `ema` is a whole
    generator, of averaged parameters in single precision at least: draw samples from it. `step`
    counts steps. `known` is what a step tells the next one, None where that is nothing. `key` is
    the data of the key that `init` was given, `key_impl` its kind: see `key_at`.
    """

    generator: PyTree
    critic: PyTree
    ema: PyTree
    generator_opt_state: PyTree
    critic_opt_state: PyTree
    known: PyTree
    step: Int[Array, ""]
    key: UInt32[Array, "..."]
    # Numbers and kind apart, since a file of arrays holds no keys.
    key_impl: Any = eqx.field(static=True)

    def key_at(self, step: Int[ArrayLike, ""]) -> Array:
        """The key of which a step derives all of its own. That of a step which is never taken is
        free for other uses."""
        return jr.fold_in(jr.wrap_key_data(self.key, impl=self.key_impl), step)


class Trainer(eqx.Module):
    """How a model is trained: the objective, the optimisers, and the batches.

    The model, called the generator, and a critic are any callable pytrees: Equinox modules as they
    are, a Flax or plain JAX function as `jax.tree_util.Partial(model.apply, parameters)`. Their
    floating arrays are trained. Make one trainer and keep it: its step is compiled for its
    optimisers, which are known by identity. Its numbers may be replaced, by `equinox.tree_at`, with
    nothing compiled anew, if they are arrays of the same dtype: `jnp.float32(0.5)`.
    """

    objective: AbstractObjective
    generator_optimiser: optax.GradientTransformation
    critic_optimiser: optax.GradientTransformation | None
    latent: Callable[[Array], Array]
    batch_size: int = eqx.field(static=True)
    n_critic: int = eqx.field(static=True)
    ema_decay: Float[Array, ""]

    def __init__(
        self,
        objective: AbstractObjective,
        *,
        generator_optimiser: optax.GradientTransformation,
        critic_optimiser: optax.GradientTransformation | None = None,
        latent: int | Callable[[Array], Array],
        batch_size: int,
        n_critic: int = 5,
        ema_decay: ArrayLike = 0.999,
    ):
        """**Arguments:**

        - `objective`: `WGAN()`, `PenalisedWGAN()`, `SinkhornGAN()` or another game; or
            `FlowMatching()`, `BridgeMatching(...)`, `Drifting(...)`, or any other
            `AbstractObjective`.
        - `generator_optimiser`, `critic_optimiser`: optax transformations; the latter may be left
            out where there are no critic steps.
        - `latent`: draws the generator's input, or what else the objective wants noise for: the
            size of a standard normal vector, or a function of a key that returns one latent.
        - `batch_size`: how many samples, real ones and fake ones, a critic or generator step takes.
        - `n_critic`: critic steps before each generator step; 0 without a critic that is trained.
        - `ema_decay`: of the exponential moving average of the generator, in [0, 1).

        **Raises:** `ValueError` for numbers out of range, an objective that is none, and critic
        steps without an optimiser, or for an objective that is no game.
        """
        if not isinstance(objective, AbstractObjective):
            raise ValueError(f"`objective` must be one such as `WGAN()`, got {objective!r}.")
        self.objective = objective
        self.batch_size = _at_least(1, batch_size, "batch_size")
        self.n_critic = _at_least(0, n_critic, "n_critic")
        if self.n_critic > 0 and not isinstance(objective, AbstractGame):
            raise ValueError(
                f"`n_critic` must be 0, since {type(objective).__name__} trains no critic, got "
                f"{n_critic}."
            )
        if self.n_critic > 0 and critic_optimiser is None:
            raise ValueError(
                "`critic_optimiser` must be given, or `n_critic=0` for a game without a critic."
            )
        self.generator_optimiser = generator_optimiser
        self.critic_optimiser = critic_optimiser
        self.latent = latent if callable(latent) else Gaussian(_at_least(1, latent, "latent"))
        self.ema_decay = float_scalar(ema_decay, "ema_decay", jnp.result_type(float))
        known = known_number(ema_decay)
        if known is not None and not 0 <= known < 1:
            raise ValueError(f"`ema_decay` must be in [0, 1), got {ema_decay!r}.")

    def init(
        self, generator: PyTree, critic: PyTree = None, *, key: Array, data: Data | None = None
    ) -> TrainState:
        """The state before the first step.

        **Arguments:**

        - `generator`: what the objective trains: in a game it maps one latent to one sample, and is
            vmapped by the step.
        - `critic`: what the objective asks for: commonly a map from one sample to a scalar.
        - `key`: from which each step derives its own; of any kind.
        - `data`: as for `step`. Given, each step starts from what the one before has found, where
            the objective has a use for it: `Drifting` starts its solves from the last potentials.

        **Raises:** `ValueError` if critic steps are to be taken and there is no critic, and for
        what is not one key.
        """
        if self.n_critic > 0 and critic is None:
            raise ValueError("`critic` must be given, or `n_critic=0` for a game without one.")
        generator, critic = strong((generator, critic))
        numbers, impl = key_data(key)
        known = None
        if data is not None:
            # The key of a step that is never taken.
            key_first = jr.fold_in(jr.wrap_key_data(numbers, impl=impl), jnp.iinfo(jnp.uint32).max)
            key_real, key_start = jr.split(key_first)
            real = batch_of(data, self.batch_size, key_real)
            known = self.objective.start(generator, real, self.latents, key=key_start)
        return TrainState(
            generator=generator,
            critic=critic,
            ema=averaged(generator),
            generator_opt_state=self.generator_optimiser.init(trained(generator)),
            critic_opt_state=self.init_critic(critic),
            known=known,
            step=jnp.zeros((), jnp.int32),
            key=numbers,
            key_impl=impl,
        )

    def init_critic(self, critic: PyTree) -> PyTree:
        """The state of the critic's optimiser before the first step of `critic`, a model as in
        `init`; None without an optimiser."""
        return (
            None if self.critic_optimiser is None else self.critic_optimiser.init(trained(critic))
        )

    @eqx.filter_jit
    def step(self, state: TrainState, data: Data) -> tuple[TrainState, Metrics]:
        """One step, compiled: `n_critic` updates of the critic, each on new batches, then one of
        the generator and of its moving average, on a new batch.

        All randomness is that of the state's key and step number.

        **Arguments:**

        - `state`: from `init`, or from the step before.
        - `data`: all real samples, shape (n, ...), of which batches are drawn uniformly, with
            replacement, or taken whole where n is the batch size; or `Ends` of them with what
            belongs to them, for an objective that reads it. Or a function of a key that
            returns a batch: the same object each time, lest the step be compiled anew; for one
            that holds arrays, a `jax.tree_util.Partial`.

        **Returns:** the new state and metrics, all scalars: `generator_loss`; `critic_loss` and the
        objective's own metrics, those of the critic from its last update; and `finite`, whether the
        losses and all of the new state are. A state that is not finite cannot be trained further:
        keep the one before.

        **Raises:** `ValueError` for data that are empty or fewer than a batch, and what the
        objective raises, such as for samples of the generator that are unlike the data.
        """
        key_critic, key_real, key_loss = jr.split(state.key_at(state.step), 3)
        critic, critic_opt_state, critic_metrics = self._critic_steps(state, data, key_critic)
        real = batch_of(data, self.batch_size, key_real)

        def loss_fn(generator: PyTree) -> tuple[Array, tuple[Metrics, PyTree]]:
            (loss, metrics), known = self.objective.loss_from(
                state.known, generator, critic, real, self.latents, key=key_loss
            )
            return loss, (metrics, known)

        generator, generator_opt_state, loss, (metrics, known) = update(
            loss_fn, self.generator_optimiser, state.generator, state.generator_opt_state
        )
        metrics = {**critic_metrics, **metrics, "generator_loss": loss}
        new = TrainState(
            generator=generator,
            critic=critic,
            ema=moved(state.ema, generator, self.ema_decay),
            generator_opt_state=generator_opt_state,
            critic_opt_state=critic_opt_state,
            known=known,
            step=state.step + 1,
            key=state.key,
            key_impl=state.key_impl,
        )
        # The optimisers' states too: after moments that overflowed, a model stands still for ever.
        # Not what steps tell each other, whose errors may be infinite where nothing is wrong.
        metrics["finite"] = all_finite((dataclasses.replace(new, known=None), metrics))
        return new, metrics

    def update_critic(
        self, critic: PyTree, opt_state: PyTree, real: Array, fake: Array, *, key: Array
    ) -> tuple[PyTree, PyTree, Metrics]:
        """One update of a critic on given batches: what `step` does `n_critic` times.

        A pure function, not compiled: for a critic alone, without a generator, put it into a scan
        or a vmap of your own.

        **Arguments:**

        - `critic`, `opt_state`: the critic, and the state of its optimiser, from `init_critic`.
        - `real`, `fake`: samples, shape (n, ...).
        - `key`: for what the objective draws, such as the points of a penalty.

        **Returns:** the new critic, the new state, and metrics at the old critic.

        **Raises:** `ValueError` without a critic's optimiser, for an objective that is no game, and
        what the objective raises.
        """
        game = self.objective
        if not isinstance(game, AbstractGame):
            raise ValueError(f"`objective` must be a game to train a critic in, got {game!r}.")

        def loss_fn(critic: PyTree) -> tuple[Array, Metrics]:
            return game.critic_loss(critic, real, fake, key=key)

        critic, opt_state, loss, metrics = update(loss_fn, self.critic_optimiser, critic, opt_state)
        return critic, opt_state, {**metrics, "critic_loss": loss}

    def latents(self, key: Array, num: int | None = None) -> Array:
        """What the generator reads: `num` latents along a first axis, by default a batch."""
        return jax.vmap(self.latent)(jr.split(key, self.batch_size if num is None else num))

    def _critic_steps(
        self, state: TrainState, data: Data, key: Array
    ) -> tuple[PyTree, PyTree, Metrics]:
        if self.n_critic == 0:
            return state.critic, state.critic_opt_state, {}
        carry, rest = eqx.partition((state.critic, state.critic_opt_state), eqx.is_array)

        def body(carry: PyTree, key: Array) -> tuple[PyTree, Metrics]:
            critic, opt_state = eqx.combine(carry, rest)
            key_real, key_fake, key_loss = jr.split(key, 3)
            real = batch_of(data, self.batch_size, key_real)
            fake = generated(state.generator, self.latents, key_fake)
            *new, metrics = self.update_critic(critic, opt_state, real, fake, key=key_loss)
            return eqx.filter(tuple(new), eqx.is_array), metrics

        # On a CPU a convolution takes several times as long inside XLA's loops as outside.
        unroll = self.n_critic <= _UNROLLED_UP_TO
        carry, metrics = lax.scan(body, carry, jr.split(key, self.n_critic), unroll=unroll)
        critic, opt_state = eqx.combine(carry, rest)
        return critic, opt_state, jax.tree.map(lambda metric: metric[-1], metrics)


def _at_least(least: int, value: Any, name: str) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if number < least:
        raise ValueError(f"`{name}` must be a whole number of at least {least}, got {value!r}.")
    return number
