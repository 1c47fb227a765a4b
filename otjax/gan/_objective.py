"""What the trainer asks of that which a model is trained on."""

import abc
from collections.abc import Callable
from typing import Any, TypeAlias

import equinox as eqx
import jax
from jaxtyping import Array, Float


# A loss, and numbers worth watching.
Loss: TypeAlias = tuple[Float[Array, ""], dict[str, Array]]

# Draws what a model reads: `latents(key)` is a batch, `latents(key, num)` that many.
Latents: TypeAlias = Callable[..., Array]


def generated(model: Any, latents: Latents, key: Array) -> Array:
    """A batch of samples of a model that maps one latent to one sample."""
    return jax.vmap(model)(latents(key))


class AbstractObjective(eqx.Module):
    """What a model is trained on: a loss of the model and of a batch of data.

    What else the loss needs it draws itself: latents, or noise, or times. So a generator of samples
    (then see `AbstractGame`), the velocity of a flow, and a generator that follows a drift are
    trained alike.

    Numbers inside an objective are arrays: a training step that is given another weight or epsilon
    compiles nothing anew.
    """

    @abc.abstractmethod
    def loss(self, model: Any, critic: Any, real: Array, latents: Latents, *, key: Array) -> Loss:
        """What the model minimises.

        **Arguments:**

        - `model`: what is trained, such as a map from one latent to one sample.
        - `critic`: held still here; None where there is none.
        - `real`: a batch of data, shape (n, ...); `Ends` if the trainer was given them.
        - `latents`: draws what the trainer was told to: `latents(key)` has the trainer's batch size
            as its first axis, `latents(key, num)` any other.
        - `key`: for all that is drawn.

        **Returns:** the loss, and metrics: a dictionary of scalars.

        **Raises:** `ValueError` for a model, a critic or data that do not fit.
        """

    def start(self, model: Any, real: Any, latents: Latents, *, key: Array) -> Any:
        """What the first step is told, where steps tell the next one what they have found: arrays
        of fixed shapes. None, as here, where they do not. Arguments as of `loss`."""
        del model, real, latents, key
        return None

    def loss_from(
        self, known: Any, model: Any, critic: Any, real: Any, latents: Latents, *, key: Array
    ) -> tuple[Loss, Any]:
        """The loss, and what the next step is told: `loss` alone where that is nothing.

        **Arguments:** as of `loss`, and

        - `known`: from `start`, or from the step before.
        """
        return self.loss(model, critic, real, latents, key=key), known


class AbstractGame(AbstractObjective):
    """A game of a generator against a critic: two losses, both of real and fake samples.

    The generator's is that of the objective, at samples generated from a batch of latents.
    """

    @abc.abstractmethod
    def critic_loss(self, critic: Any, real: Array, fake: Array, *, key: Array) -> Loss:
        """What the critic minimises.

        **Arguments:**

        - `critic`: what this game calls one, such as a map from one sample to a scalar.
        - `real`, `fake`: samples, shapes (n, ...) and (m, ...).
        - `key`: for what is drawn on the way.

        **Returns:** the loss, and metrics: a dictionary of scalars.

        **Raises:** `ValueError` for a critic or samples that do not fit.
        """

    @abc.abstractmethod
    def generator_loss(self, critic: Any, real: Array, fake: Array) -> Loss:
        """What the generator minimises, through `fake`; arguments and returns as `critic_loss`.

        `critic` is None in a game without one.
        """

    def loss(self, model: Any, critic: Any, real: Array, latents: Latents, *, key: Array) -> Loss:
        """The generator's loss at a batch that `model` generates."""
        return self.generator_loss(critic, real, generated(model, latents, key))
