"""WGAN-GP in PyTorch, as one would write it: what `gan_speed.py` holds otjax against."""

from typing import NamedTuple

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from torch import nn, Tensor  # pyright: ignore[reportMissingImports]
from torch.optim.swa_utils import (  # pyright: ignore[reportMissingImports]
    AveragedModel,
    get_ema_multi_avg_fn,
)


Layers = list[tuple[np.ndarray, np.ndarray]]  # weight (out, in) and bias of each


class Recipe(NamedTuple):
    """The numbers of a training step."""

    latent: int
    batch: int
    n_critic: int
    penalty: float
    learning_rate: float
    betas: tuple[float, float]
    ema_decay: float


class Draws(NamedTuple):
    """What one critic update is given."""

    real: Tensor
    latents: Tensor
    share: Tensor  # of the way from the real to the fake sample, shape (batch, 1)


def network(layers: Layers, activation: nn.Module, last: nn.Module) -> nn.Sequential:
    """Fully connected layers of these weights."""
    modules: list[nn.Module] = []
    for weight, bias in layers:
        out_size, in_size = weight.shape
        linear = nn.Linear(in_size, out_size)
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(np.array(weight)))
            linear.bias.copy_(torch.from_numpy(np.array(bias)))
        modules += [linear, activation]
    return nn.Sequential(*modules[:-1], last)


class Game:
    """Both networks, their optimisers, and a step: critic updates, generator update, average.

    Compiled, the losses with their gradients are one graph each, by `torch.func`: double backward
    is not for `torch.compile` otherwise. The optimisers are PyTorch's fused ones.
    """

    def __init__(
        self, generator: nn.Module, critic: nn.Module, data: Tensor, recipe: Recipe, compiled: bool
    ):
        self.generator, self.critic = generator, critic
        self.data, self.recipe = data, recipe
        self.generator_optimiser, self.critic_optimiser = (
            torch.optim.Adam(
                model.parameters(), lr=recipe.learning_rate, betas=recipe.betas, fused=True
            )
            for model in (generator, critic)
        )
        average = get_ema_multi_avg_fn(recipe.ema_decay)
        self.ema = AveragedModel(generator, multi_avg_fn=average)
        self.critic_gradients = self.generator_gradients = None
        if compiled:
            self.critic_gradients = torch.compile(self._critic_gradients)
            self.generator_gradients = torch.compile(self._generator_gradients)

    # Eager

    def critic_loss(self, real: Tensor, fake: Tensor, share: Tensor) -> Tensor:
        points = torch.lerp(real, fake, share).requires_grad_()
        (slopes,) = torch.autograd.grad(self.critic(points).sum(), points, create_graph=True)
        return self._loss(self.critic(torch.cat([fake, real])), slopes)

    def generator_loss(self, latents: Tensor) -> Tensor:
        return -self.critic(self.generator(latents)).mean()

    def _loss(self, scores: Tensor, slopes: Tensor) -> Tensor:
        fake, real = scores.chunk(2)
        penalty = (slopes.norm(dim=1) - 1).square().mean()
        return fake.mean() - real.mean() + self.recipe.penalty * penalty

    # Compiled

    def _critic_gradients(
        self, parameters: dict[str, Tensor], real: Tensor, latents: Tensor, share: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        fake = self.generator(latents).detach()

        def loss(parameters: dict[str, Tensor]) -> Tensor:
            call = lambda x: torch.func.functional_call(self.critic, parameters, (x,))
            points = torch.lerp(real, fake, share)
            slopes = torch.func.grad(lambda x: call(x).sum())(points)
            return self._loss(call(torch.cat([fake, real])), slopes)

        return torch.func.grad_and_value(loss)(parameters)

    def _generator_gradients(
        self, parameters: dict[str, Tensor], latents: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        def loss(parameters: dict[str, Tensor]) -> Tensor:
            fake = torch.func.functional_call(self.generator, parameters, (latents,))
            return -self.critic(fake).mean()

        return torch.func.grad_and_value(loss)(parameters)

    # One update

    def update_critic(self, draws: Draws) -> Tensor:
        """The loss before the update."""
        if self.critic_gradients is not None:
            parameters = {name: p.detach() for name, p in self.critic.named_parameters()}
            gradients, loss = self.critic_gradients(parameters, *draws)
            for name, parameter in self.critic.named_parameters():
                parameter.grad = gradients[name]
        else:
            with torch.no_grad():
                fake = self.generator(draws.latents)
            self.critic_optimiser.zero_grad()
            loss = self.critic_loss(draws.real, fake, draws.share)
            loss.backward()
        self.critic_optimiser.step()
        return loss.detach()

    def update_generator(self, latents: Tensor) -> Tensor:
        """The loss before the update."""
        if self.generator_gradients is not None:
            parameters = {name: p.detach() for name, p in self.generator.named_parameters()}
            gradients, loss = self.generator_gradients(parameters, latents)
            for name, parameter in self.generator.named_parameters():
                parameter.grad = gradients[name]
        else:
            self.generator_optimiser.zero_grad()
            self.critic.requires_grad_(False)
            loss = self.generator_loss(latents)
            loss.backward()
            self.critic.requires_grad_(True)
        self.generator_optimiser.step()
        self.ema.update_parameters(self.generator)
        return loss.detach()

    def draws(self) -> Draws:
        batch = self.recipe.batch
        real = self.data[torch.randint(len(self.data), (batch,))]
        return Draws(real, torch.randn(batch, self.recipe.latent), torch.rand(batch, 1))

    def step(self) -> tuple[Tensor, Tensor]:
        """The losses of the last critic update and of the generator's."""
        critic_loss = torch.zeros(())
        for _ in range(self.recipe.n_critic):
            critic_loss = self.update_critic(self.draws())
        latents = torch.randn(self.recipe.batch, self.recipe.latent)
        return critic_loss, self.update_generator(latents)
