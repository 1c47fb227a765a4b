"""Training a generator against a critic: one compiled step."""

import operator
from collections.abc import Callable
from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.lax as lax
import jax.numpy as jnp
import jax.random as jr
import optax
from jaxtyping import Array, ArrayLike, Float, Int, PyTree, UInt32

from .._arrays import float_scalar, known_number
from ._objective import AbstractObjective
from ._parameters import all_finite, averaged, Metrics, moved, strong, trained, update
from ._samples import samples


# Critic steps beyond this are a loop also in the compiled program, which else would grow with them.
_UNROLLED_UP_TO = 8

# All samples, or a function that draws a batch of them.
Data: TypeAlias = ArrayLike | Callable[[Array], Array]


class TrainState(eqx.Module):
    """All that a training step reads and writes besides the data.

    Saved whole, by `equinox.tree_serialise_leaves`, it resumes to the same bits. `ema` is a whole
    generator, of averaged parameters in single precision at least: draw samples from it. `step`
    counts steps, and `key` is the data of the key that `init` was given, of which every step
    derives its own.
    """

    generator: PyTree
    critic: PyTree
    ema: PyTree
    generator_opt_state: PyTree
    critic_opt_state: PyTree
    step: Int[Array, ""]
    key: UInt32[Array, "..."]


class Gaussian(eqx.Module):
    """A standard normal vector."""

    size: int = eqx.field(static=True)

    def __call__(self, key: Array) -> Float[Array, " size"]:
        return jr.normal(key, (self.size,))


class Trainer(eqx.Module):
    """How a generator is trained: the game, the optimisers of both sides, and the batches.

    Generator and critic are any callable pytrees: Equinox modules as they are, a Flax or plain JAX
    function as `jax.tree_util.Partial(model.apply, parameters)`. Their floating arrays are trained.
    Make one trainer and keep it: its step is compiled for its optimisers, which are known by
    identity. Its numbers may be replaced, by `equinox.tree_at`, with nothing compiled anew, if they
    are arrays of the same dtype: `jnp.float32(0.5)`.
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

        - `objective`: `WGAN()`, `PenalisedWGAN()`, `SinkhornGAN()` or another game.
        - `generator_optimiser`, `critic_optimiser`: optax transformations; the latter may be left
            out where there are no critic steps.
        - `latent`: draws the generator's input: the size of a standard normal vector, or a function
            of a key that returns one latent.
        - `batch_size`: how many samples, real ones and fake ones, a critic or generator step takes.
        - `n_critic`: critic steps before each generator step; 0 for a game without a critic.
        - `ema_decay`: of the exponential moving average of the generator, in [0, 1).

        **Raises:** `ValueError` for numbers out of range, an objective that is none, and critic
        steps without an optimiser.
        """
        if not isinstance(objective, AbstractObjective):
            raise ValueError(f"`objective` must be one such as `WGAN()`, got {objective!r}.")
        self.objective = objective
        self.batch_size = _at_least(1, batch_size, "batch_size")
        self.n_critic = _at_least(0, n_critic, "n_critic")
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

    def init(self, generator: PyTree, critic: PyTree = None, *, key: Array) -> TrainState:
        """The state before the first step.

        **Arguments:**

        - `generator`: maps one latent to one sample; it is vmapped by the step.
        - `critic`: what the objective asks for: commonly a map from one sample to a scalar.
        - `key`: from which each step derives its own; of JAX's default kind.

        **Raises:** `ValueError` if critic steps are to be taken and there is no critic.
        """
        if self.n_critic > 0 and critic is None:
            raise ValueError("`critic` must be given, or `n_critic=0` for a game without one.")
        generator, critic = strong((generator, critic))
        key = jnp.asarray(key)
        if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.dtype != jr.key(0).dtype:
            raise ValueError(f"`key` must be of JAX's default kind, got {key.dtype}.")
        if key.ndim != (0 if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else 1):
            raise ValueError(
                f"`key` must be one key, from `jax.random.key`, got shape {key.shape}."
            )
        return TrainState(
            generator=generator,
            critic=critic,
            ema=averaged(generator),
            generator_opt_state=self.generator_optimiser.init(trained(generator)),
            critic_opt_state=self.init_critic(critic),
            step=jnp.zeros((), jnp.int32),
            key=jr.key_data(key),
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
        the generator and of its moving average.

        All randomness is that of the state's key and step number.

        **Arguments:**

        - `state`: from `init`, or from the step before.
        - `data`: all real samples, shape (n, ...), of which batches are drawn uniformly, with
            replacement, or taken whole where n is the batch size. Or a function of a key that
            returns a batch: the same object each time, lest the step be compiled anew; for one
            that holds arrays, a `jax.tree_util.Partial`.

        **Returns:** the new state and metrics, all scalars: `generator_loss`; `critic_loss` and the
        objective's own metrics, those of the critic from its last update; and `finite`, whether the
        losses and all of the new state are. A state that is not finite cannot be trained further:
        keep the one before.

        **Raises:** `ValueError` for data that are empty, fewer than a batch, or unlike the
        generator's samples, and a critic that does not return a scalar.
        """
        key = jr.fold_in(jr.wrap_key_data(state.key), state.step)
        key_critic, key_real, key_fake = jr.split(key, 3)
        critic, critic_opt_state, critic_metrics = self._critic_steps(state, data, key_critic)

        real, latents = self._real(data, key_real), self._latents(key_fake)

        def loss_fn(generator: PyTree) -> tuple[Array, Metrics]:
            return self.objective.generator_loss(critic, real, jax.vmap(generator)(latents))

        generator, generator_opt_state, loss, metrics = update(
            loss_fn, self.generator_optimiser, state.generator, state.generator_opt_state
        )
        metrics = {**critic_metrics, **metrics, "generator_loss": loss}
        new = TrainState(
            generator=generator,
            critic=critic,
            ema=moved(state.ema, generator, self.ema_decay),
            generator_opt_state=generator_opt_state,
            critic_opt_state=critic_opt_state,
            step=state.step + 1,
            key=state.key,
        )
        # The optimisers' states too: after moments that overflowed, a model stands still for ever.
        metrics["finite"] = all_finite((new, metrics))
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

        **Raises:** `ValueError` without a critic's optimiser, and what the objective raises.
        """

        def loss_fn(critic: PyTree) -> tuple[Array, Metrics]:
            return self.objective.critic_loss(critic, real, fake, key=key)

        critic, opt_state, loss, metrics = update(loss_fn, self.critic_optimiser, critic, opt_state)
        return critic, opt_state, {**metrics, "critic_loss": loss}

    def _critic_steps(
        self, state: TrainState, data: Data, key: Array
    ) -> tuple[PyTree, PyTree, Metrics]:
        if self.n_critic == 0:
            return state.critic, state.critic_opt_state, {}
        carry, rest = eqx.partition((state.critic, state.critic_opt_state), eqx.is_array)

        def body(carry: PyTree, key: Array) -> tuple[PyTree, Metrics]:
            critic, opt_state = eqx.combine(carry, rest)
            key_real, key_fake, key_loss = jr.split(key, 3)
            fake = jax.vmap(state.generator)(self._latents(key_fake))
            *new, metrics = self.update_critic(
                critic, opt_state, self._real(data, key_real), fake, key=key_loss
            )
            return eqx.filter(tuple(new), eqx.is_array), metrics

        # On a CPU a convolution takes several times as long inside XLA's loops as outside.
        unroll = self.n_critic <= _UNROLLED_UP_TO
        carry, metrics = lax.scan(body, carry, jr.split(key, self.n_critic), unroll=unroll)
        critic, opt_state = eqx.combine(carry, rest)
        return critic, opt_state, jax.tree.map(lambda metric: metric[-1], metrics)

    def _latents(self, key: Array) -> Array:
        return jax.vmap(self.latent)(jr.split(key, self.batch_size))

    def _real(self, data: Data, key: Array) -> Array:
        if callable(data):
            return samples(data(key), "data")
        array = samples(data, "data")
        if len(array) < self.batch_size:
            raise ValueError(
                f"`data` must hold at least a batch, {self.batch_size} samples, got {len(array)}; "
                "lower `batch_size`."
            )
        if len(array) == self.batch_size:
            return array
        return array[jr.randint(key, (self.batch_size,), 0, len(array))]


def _at_least(least: int, value: Any, name: str) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if number < least:
        raise ValueError(f"`{name}` must be a whole number of at least {least}, got {value!r}.")
    return number
