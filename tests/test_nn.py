"""Generators and critics: shapes, and slopes that stay bounded whatever training does."""

import functools as ft
import subprocess
import sys

import equinox as eqx
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from jax.test_util import check_grads

import otjax
from otjax import nn
from otjax.nn._lipschitz import space_to_depth
from otjax.nn._orthogonal import orthogonal
from otjax.nn._spectral import spectral_bound


KEY = jr.key(0)
SIZES = [8, 16, 28, 32, 64]
FEATURES = nn.FourierFeatures(2, 40, scale=3.0, key=jr.key(1))
LATENT = 5


def single(model):
    """The model in single precision, in which its bounds are promised."""
    return jax.tree.map(lambda a: a.astype(jnp.float32) if eqx.is_array(a) else a, model)


def shape_of(make, *sizes):
    """The shape of the output, without computing it, nor the weights."""
    return eqx.filter_eval_shape(lambda x: make()(x), jnp.zeros(sizes)).shape


def output(make, x):
    """The output in single precision, as one program."""
    return jax.jit(lambda x: single(make())(x))(x)


def singular_values(matrix):
    return np.linalg.svd(np.asarray(matrix, np.float64), compute_uv=False)


# Shapes


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("generator", [nn.ConvGenerator, nn.ResidualGenerator])
def test_an_image_generator_makes_images(generator, size):
    make = ft.partial(generator, LATENT, 3, size, width=4, key=KEY)
    assert shape_of(make, LATENT) == (3, size, size)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("critic", [nn.ConvCritic, nn.ResidualCritic, nn.LipschitzConv])
def test_an_image_critic_returns_a_scalar(critic, size):
    make = ft.partial(critic, 3, size, width=4, key=KEY)
    assert shape_of(make, 3, size, size) == ()


@pytest.mark.parametrize("shape", [3, (2, 4, 4)])
def test_fully_connected_models_take_any_shape(shape):
    sizes = (shape,) if isinstance(shape, int) else shape
    assert shape_of(lambda: nn.MLPGenerator(LATENT, shape, width=4, key=KEY), LATENT) == sizes
    assert shape_of(lambda: nn.MLPCritic(shape, width=4, key=KEY), *sizes) == ()
    assert shape_of(lambda: nn.LipschitzMLP(shape, width=4, key=KEY), *sizes) == ()


@pytest.mark.parametrize("size", [0, -8, 4, 7, 9, 18, 27, 31])
def test_a_size_that_does_not_fit_is_named(size):
    for critic in (nn.ConvCritic, nn.ResidualCritic, nn.LipschitzConv):
        with pytest.raises(ValueError, match="`size`"):
            critic(1, size, key=KEY)
    for generator in (nn.ConvGenerator, nn.ResidualGenerator):
        with pytest.raises(ValueError, match="`size`"):
            generator(LATENT, 1, size, key=KEY)


@pytest.mark.parametrize(
    "name, make",
    {
        "latent_size": lambda: nn.MLPGenerator(0, 2, key=KEY),
        "shape": lambda: nn.MLPCritic((2, 0), key=KEY),
        "width": lambda: nn.MLPCritic(2, width=0, key=KEY),
        "width`": lambda: nn.MLPCritic(2, width=(), key=KEY),
        "width``": lambda: nn.MLPCritic(2, width=(8, -1), key=KEY),
        "depth": lambda: nn.LipschitzMLP(2, depth=-1, key=KEY),
        "depth`": lambda: nn.MLPCritic(2, width=8, depth=0, key=KEY),
        "depth``": lambda: nn.MLPCritic(2, width=(8, 8), depth=2, key=KEY),
        "features": lambda: nn.MLPCritic(3, features=FEATURES, key=KEY),
        "num": lambda: nn.FourierFeatures(2, 0, scale=1.0, key=KEY),
        "scale": lambda: nn.FourierFeatures(2, scale=0.0, key=KEY),
        "channels": lambda: nn.ConvCritic(0, 8, key=KEY),
        "group_size": lambda: nn.LipschitzMLP(2, width=10, group_size=4, key=KEY),
        "group_size`": lambda: nn.GroupSort(1),
        "in_size": lambda: nn.OrthogonalLinear(0, 2, key=KEY),
        "out_channels": lambda: nn.OrthogonalConv(1, 0, key=KEY),
        "kernel_size": lambda: nn.OrthogonalConv(1, 1, 0, key=KEY),
        "in_size`": lambda: nn.ICNN(-1, key=KEY),
        "strong_convexity": lambda: nn.ICNN(2, strong_convexity=-1.0, key=KEY),
        "layer": lambda: nn.SpectralNorm(eqx.nn.LayerNorm(3)),
        "model": lambda: nn.spectral_norm(jnp.zeros(3)),
    }.items(),
)
def test_a_wrong_argument_is_named(name, make):
    with pytest.raises(ValueError, match=f"`{name.rstrip('`')}`"):
        make()


@pytest.mark.parametrize(
    "make, arguments, sizes",
    [
        (nn.MLPGenerator, (LATENT, 2), (3, LATENT)),
        (nn.MLPCritic, (2,), (7, 2)),
        (nn.LipschitzMLP, (2,), (7, 2)),
        (nn.ICNN, (2,), (7, 2)),
        (nn.ConvGenerator, (LATENT, 1, 8), (LATENT + 1,)),
        (nn.ResidualGenerator, (LATENT, 1, 8), (LATENT + 1,)),
        (nn.ConvCritic, (1, 8), (7, 1, 8, 8)),
        (nn.ResidualCritic, (1, 8), (1, 16, 16)),
        (nn.LipschitzConv, (1, 8), (1, 16, 16)),
    ],
)
def test_what_is_not_one_sample_is_told_so(unchecked, make, arguments, sizes):
    with pytest.raises(ValueError, match="`x` must be one sample"):
        shape_of(lambda: make(*arguments, width=4, key=KEY), *sizes)


# Options: each changes the output, and models keep to their own precision.

GENERATORS = {
    "mlp": ft.partial(nn.MLPGenerator, LATENT, (1, 8, 8), width=8, key=KEY),
    "conv": ft.partial(nn.ConvGenerator, LATENT, 1, 8, width=8, key=KEY),
    "residual": ft.partial(nn.ResidualGenerator, LATENT, 1, 8, width=8, key=KEY),
}
CRITICS = {
    "mlp": ft.partial(nn.MLPCritic, (1, 8, 8), width=8, key=KEY),
    "conv": ft.partial(nn.ConvCritic, 1, 8, width=8, key=KEY),
    "residual": ft.partial(nn.ResidualCritic, 1, 8, width=8, key=KEY),
    "lipschitz mlp": ft.partial(nn.LipschitzMLP, (1, 8, 8), width=8, key=KEY),
    "lipschitz conv": ft.partial(nn.LipschitzConv, 1, 8, width=8, key=KEY),
}


def parameters(make):
    leaves = jax.tree.leaves(eqx.filter_eval_shape(make))
    return sum(leaf.size for leaf in leaves if isinstance(leaf, jax.ShapeDtypeStruct))


@pytest.mark.parametrize("name", GENERATORS)
def test_the_options_of_a_generator(name):
    make, latent = GENERATORS[name], jr.normal(KEY, (LATENT,), jnp.float32)
    images = output(ft.partial(make, final_activation=jnp.tanh), latent)
    assert images.dtype == jnp.float32
    squashed = output(ft.partial(make, final_activation=jax.nn.sigmoid), latent)
    np.testing.assert_allclose(squashed, jax.nn.sigmoid(jnp.arctanh(images)), rtol=1e-4)
    other = output(ft.partial(make, key=jr.key(1), final_activation=jnp.tanh), latent)
    assert jnp.max(jnp.abs(images - other)) > 1e-3
    assert parameters(ft.partial(make, width=16)) > parameters(make)


@pytest.mark.parametrize("name", CRITICS)
def test_the_options_of_a_critic(name):
    make, image = CRITICS[name], jr.normal(KEY, (1, 8, 8), jnp.float32)
    score = output(make, image)
    assert score.dtype == jnp.float32
    own = {"group_size": 4} if name.startswith("lipschitz") else {"activation": jax.nn.relu}
    for options in ({"key": jr.key(1)}, own):
        assert abs(output(ft.partial(make, **options), image) - score) > 1e-6
    assert parameters(ft.partial(make, width=16)) > parameters(make)


@pytest.mark.parametrize("make", [GENERATORS["mlp"], CRITICS["mlp"], CRITICS["lipschitz mlp"]])
def test_depth_adds_layers(make):
    three, four = (parameters(ft.partial(make, depth=depth)) for depth in (3, 4))
    assert four == three + 8 * 8 + 8


def test_the_activation_of_an_mlp_generator():
    latent = jr.normal(KEY, (LATENT,), jnp.float32)
    smooth = output(ft.partial(GENERATORS["mlp"], activation=jax.nn.silu), latent)
    assert jnp.max(jnp.abs(smooth - output(GENERATORS["mlp"], latent))) > 1e-3


# What a fully connected critic is made of


@pytest.mark.parametrize(
    "options, sizes",
    [
        ({}, (6, 512, 128)),
        ({"width": 9}, (6, 9, 9)),
        ({"width": 9, "depth": 3}, (6, 9, 9, 9)),
        ({"width": (9,)}, (6, 9)),
        ({"width": [9, 4, 5]}, (6, 9, 4, 5)),
    ],
)
def test_the_widths_of_a_critic(options, sizes):
    critic = eqx.filter_eval_shape(lambda: nn.MLPCritic((2, 3), key=KEY, **options))
    shapes = [layer.weight.shape for layer in critic.layers]
    assert shapes == list(zip((*sizes[1:], 1), sizes, strict=True))


def test_fourier_features():
    """x, sin and cos of W x; these pairs have length one, and tell how far x is from y."""
    x, y = jnp.array([0.3, -0.2]), jnp.array([0.4, 0.1])
    phases = np.asarray(FEATURES.frequencies) @ x
    np.testing.assert_allclose(FEATURES(x), np.concatenate([x, np.sin(phases), np.cos(phases)]))
    # E cos(W (x - y)) is the characteristic function of the normal law of the frequencies.
    many = nn.FourierFeatures(2, 20_000, scale=3.0, key=KEY)
    kernel = jnp.sum(many(x)[2:] * many(y)[2:]) / 20_000
    np.testing.assert_allclose(kernel, np.exp(-9 * 0.1 / 2), atol=0.02)


def test_a_critic_reads_features_that_are_not_trained():
    critic = nn.MLPCritic(2, width=8, features=FEATURES, key=KEY)
    assert critic.layers[0].weight.shape == (8, 82)
    plain = nn.MLPCritic(82, width=8, key=KEY)
    x = jnp.array([0.3, -0.2])
    np.testing.assert_allclose(critic(x), plain(FEATURES(x)))
    gradient = eqx.filter_jit(eqx.filter_grad(lambda critic, x: critic(x)))(critic, x)
    assert jnp.all(gradient.features.frequencies == 0)
    assert jnp.any(gradient.layers[0].weight != 0)
    # The slope in the sample is not cut off.
    step = 1e-6 * jnp.array([1.0, 2.0])
    slope = (critic(x + step) - critic(x - step)) / 2e-6
    np.testing.assert_allclose(jax.grad(critic)(x) @ jnp.array([1.0, 2.0]), slope, rtol=1e-5)


# GroupSort


@pytest.mark.parametrize("group_size", [2, 3, 12])
def test_group_sort_sorts_groups(group_size):
    x = jr.normal(KEY, (12, 2, 2))
    groups = np.asarray(x).reshape(-1, group_size, 2, 2)
    np.testing.assert_array_equal(nn.GroupSort(group_size)(x), np.sort(groups, 1).reshape(x.shape))


def test_max_min_orders_pairs():
    np.testing.assert_array_equal(
        nn.max_min(jnp.array([2.0, 1.0, -1.0, 3.0])), [1.0, 2.0, -1.0, 3.0]
    )


@pytest.mark.parametrize("group_size", [2, 6])
def test_group_sort_preserves_gradients(group_size):
    jacobian = jax.jacobian(nn.GroupSort(group_size))(jr.normal(KEY, (6,)))
    np.testing.assert_allclose(jacobian @ jacobian.T, np.eye(6), atol=1e-12)


def test_group_sort_names_features_that_do_not_fit():
    with pytest.raises(ValueError, match="`x`"):
        nn.GroupSort(4)(jnp.zeros(6))


# Orthogonal layers


@pytest.mark.parametrize("rows, columns", [(6, 6), (9, 4), (4, 9), (1, 7), (7, 1), (1, 1)])
def test_a_free_matrix_becomes_orthogonal(rows, columns):
    transform = jax.jit(lambda free: orthogonal(free))
    direction = jr.normal(KEY, (rows, columns), jnp.float32)
    for scale in (1e-3, 1.0, 30.0, 1e4):
        values = singular_values(transform(scale * direction))
        assert values.max() <= 1 + 1e-5
        assert values.min() >= 1 - (1e-5 if scale < 100 else 1e-2)


@pytest.mark.parametrize("scale", [1e2, 1e4, 1e10, 1e30])
@pytest.mark.parametrize("kind", ["rank one", "tall", "square", "complex"])
def test_a_free_matrix_of_any_size_becomes_orthogonal(kind, scale):
    """As large ones are scaled down before rounding spoils the inverse, or squares overflow."""
    free = jr.normal(KEY, (12, 12) if kind == "square" else (40, 12), jnp.float32)
    free = free[:, :1] * free[:1] if kind == "rank one" else free
    free = scale * (jax.lax.complex(free, free[::-1]) if kind == "complex" else free)
    q = np.asarray(orthogonal(free))
    np.testing.assert_allclose(q.conj().T @ q, np.eye(12), atol=1e-5)
    gradient = jax.grad(lambda free: jnp.sum(jnp.abs(orthogonal(free)[:3]) ** 2))(free)
    assert jnp.isfinite(gradient).all()


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_orthogonal_layers_in_half_precision(dtype):
    layer = nn.OrthogonalLinear(3, 4, key=KEY)
    half = jax.tree.map(lambda leaf: leaf.astype(dtype), layer)
    assert half.weight.dtype == dtype
    np.testing.assert_allclose(half.weight.astype(float), layer.weight, atol=0.02)


def test_the_cayley_transform_of_a_skew_matrix():
    """(I - A)(I + A)^-1 for A = [[0, -t], [t, 0]] is the rotation by -2 atan(t)."""
    t = 0.7
    angle = -2 * np.arctan(2 * t)  # the free matrix enters as U - U^T
    expected = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    np.testing.assert_allclose(orthogonal(jnp.array([[0.0, -t], [t, 0.0]])), expected, atol=1e-12)


@pytest.mark.parametrize("rows, columns", [(4, 4), (5, 3), (3, 5)])
def test_the_derivative_of_the_cayley_transform(rows, columns):
    transform = jax.jit(lambda free: orthogonal(free))
    check_grads(transform, (jr.normal(KEY, (rows, columns)),), order=2, atol=1e-4, rtol=1e-4)


MANY_TRANSFORMS = """
import os
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
import jax, jax.random as jr
from otjax.nn._orthogonal import orthogonal

@jax.jit
def run(matrices):
    step = lambda matrices, _: ([orthogonal(one @ one) for one in matrices], None)
    return jax.lax.scan(step, matrices, None, length=100)[0]

jax.block_until_ready(run([jr.normal(jr.key(i), (32, 64, 64)) for i in range(8)]))
"""


@pytest.mark.slow
def test_batches_of_transforms_do_not_wait_for_each_other():
    """In a process of its own, since one whose threads all wait for another cannot be stopped."""
    subprocess.run([sys.executable, "-c", MANY_TRANSFORMS], check=True, timeout=100)


def test_a_new_layer_is_in_general_position():
    """Neither near the identity, nor with all of a vector kept in the first coordinates."""
    weight = nn.OrthogonalLinear(32, 64, key=KEY).weight
    assert 0.2 < jnp.sum(jnp.square(weight[:32])) / 32 < 0.8
    assert jnp.abs(jnp.trace(nn.OrthogonalLinear(64, 64, key=KEY).weight)) < 48


def test_the_bias_of_orthogonal_layers():
    linear = nn.OrthogonalLinear(3, 4, key=KEY)
    np.testing.assert_allclose(linear(jnp.zeros(3)), linear.bias)
    assert nn.OrthogonalLinear(3, 4, use_bias=False, key=KEY).bias is None
    conv = nn.OrthogonalConv(1, 4, key=KEY)
    constant = np.broadcast_to(np.asarray(conv.bias)[:, None, None], (4, 5, 5))
    np.testing.assert_allclose(conv(jnp.zeros((1, 5, 5))), constant)
    assert nn.OrthogonalConv(1, 4, use_bias=False, key=KEY).bias is None
    assert nn.OrthogonalConv(1, 4, 5, key=KEY).free.shape == (4, 1, 5, 5)


@pytest.mark.parametrize("channels, size, kernel", [((2, 3), 5, 3), ((3, 2), 4, 3), ((2, 2), 4, 2)])
def test_an_orthogonal_convolution_is_an_orthogonal_matrix(channels, size, kernel):
    conv = single(nn.OrthogonalConv(*channels, kernel, key=KEY))
    jacobian = jax.jacobian(conv)(jnp.zeros((channels[0], size, size), jnp.float32))
    values = singular_values(jacobian.reshape(channels[1] * size**2, -1))
    np.testing.assert_allclose(values, 1, atol=1e-5)


def test_an_orthogonal_convolution_moves_with_its_input():
    conv = nn.OrthogonalConv(2, 3, key=KEY)
    x = jr.normal(KEY, (2, 5, 5))
    np.testing.assert_allclose(
        conv(jnp.roll(x, (1, 2), (1, 2))), jnp.roll(conv(x), (1, 2), (1, 2)), atol=1e-12
    )


@pytest.mark.parametrize("shape", [(1, 5, 4), (2, 5, 5), (1, 2, 2), (5, 5)])
def test_an_image_that_does_not_fit_a_convolution(unchecked, shape):
    with pytest.raises(ValueError, match="`x`"):
        nn.OrthogonalConv(1, 2, key=KEY)(jnp.zeros(shape))


def test_halving_an_image_loses_nothing():
    x = jr.normal(KEY, (2, 4, 4))
    halved = space_to_depth(x)
    assert halved.shape == (8, 2, 2)
    np.testing.assert_array_equal(halved[:4, 0, 1], x[0, :2, 2:].ravel())


# The promise of the 1-Lipschitz critics

LIPSCHITZ = {
    "mlp": (ft.partial(nn.LipschitzMLP, 6, width=16), (6,)),
    "full sort": (ft.partial(nn.LipschitzMLP, 6, width=16, group_size=16), (6,)),
    "deep": (ft.partial(nn.LipschitzMLP, 6, width=16, depth=5), (6,)),
    "conv": (ft.partial(nn.LipschitzConv, 1, 8, width=4), (1, 8, 8)),
    "spectral": (lambda key: nn.spectral_norm(nn.MLPCritic(6, width=16, key=key)), (6,)),
}
SLOPE_OF_ACTIVATION = {"spectral": 1.1**2}  # silu's derivative reaches 1.0998


@eqx.filter_jit
def largest_slope(critic, starts):
    """The largest gradient norm at random points, and the largest slope of pairs that climb it."""

    def slope(pair):
        x, y = pair
        distance = jnp.sqrt(jnp.sum(jnp.square(x - y)))
        return jnp.abs(critic(x) - critic(y)) / jnp.maximum(distance, 1e-2)

    def climb(pair):
        def step(pair, _):
            value, gradient = jax.value_and_grad(slope)(pair)
            norm = jnp.sqrt(jnp.sum(jnp.square(gradient))) + 1e-6
            return pair + 0.1 * gradient / norm, value

        return jax.lax.scan(step, pair, length=30)[1]

    norms = otjax.gan.gradient_norms(critic, starts)
    pairs = starts.reshape(-1, 2, *starts.shape[1:])
    return jnp.max(norms), jnp.max(jax.vmap(climb)(pairs[:200]))


@pytest.mark.parametrize("name", LIPSCHITZ)
def test_a_lipschitz_critic_stays_so_in_training(name):
    make, shape = LIPSCHITZ[name]
    critic = single(make(key=KEY))
    bound = SLOPE_OF_ACTIVATION.get(name, 1.0) + 1e-4
    starts = 3 * jr.normal(KEY, (2000, *shape), jnp.float32)
    real, fake = starts[:32], starts[32:64] + 1
    optimiser = optax.sgd(0.5)  # steps that a critic without a bound would not survive
    losses = []

    @eqx.filter_jit
    def step(critic):
        loss, gradient = eqx.filter_value_and_grad(otjax.gan.critic_loss)(critic, real, fake)
        updates, _ = optimiser.update(gradient, optimiser.init(gradient))
        return eqx.apply_updates(critic, updates), loss

    for number in range(31):
        if number % 10 == 0:
            norm, slope = largest_slope(critic, starts)
            assert norm <= bound and slope <= bound
        critic, loss = step(critic)
        losses.append(loss)
    assert losses[-1] < losses[0] - 0.3  # it was trained
    assert slope > 0.3  # and the bound is not idle


def test_a_lipschitz_critic_reaches_the_distance():
    """W1 between a cloud and its translate is the length of the translation."""
    shift = jnp.array([[3.0, 4.0]])
    real = jr.normal(KEY, (32, 2))
    critic = nn.LipschitzMLP(2, width=8, key=KEY)
    trainer = otjax.gan.Trainer(
        otjax.gan.WGAN(),
        generator_optimiser=optax.sgd(0.0),
        critic_optimiser=optax.adam(0.03),
        latent=2,
        batch_size=32,
    )
    step, opt_state = eqx.filter_jit(trainer.update_critic), trainer.init_critic(critic)
    for _ in range(100):
        critic, opt_state, metrics = step(critic, opt_state, real, real + shift, key=KEY)
    assert 4.8 < metrics["w1"] <= 5 * (1 + 1e-6)


# Spectral normalisation


@pytest.mark.parametrize("shape", [(1, 5), (30, 20), (20, 30), (64, 64)])
def test_the_bound_is_just_above_the_spectral_norm(shape):
    bound = jax.jit(lambda matrix: spectral_bound(matrix))
    for scale in (1e-12, 1.0, 1e12):
        matrix = scale * jr.normal(KEY, shape, jnp.float32)
        ratio = float(bound(matrix)) / singular_values(matrix)[0]
        assert 1 - 1e-5 <= ratio <= 1.003


@pytest.mark.parametrize("scale", [1e-30, 1e25])
def test_the_bound_of_the_smallest_and_the_largest(scale):
    matrix = jr.normal(KEY, (5, 3), jnp.float32)
    bound, gradient = jax.value_and_grad(spectral_bound)(matrix)
    np.testing.assert_allclose(spectral_bound(scale * matrix) / scale, bound, rtol=1e-5)
    np.testing.assert_allclose(jax.grad(spectral_bound)(scale * matrix), gradient, atol=1e-4)


def test_the_derivative_of_the_bound():
    bound = jax.jit(lambda matrix: spectral_bound(matrix))
    check_grads(bound, (jr.normal(KEY, (4, 3)),), order=1, atol=1e-4, rtol=1e-4)
    gradient = jax.grad(spectral_bound)(jnp.zeros((4, 3)))
    assert jnp.all(jnp.isfinite(gradient))


def test_spectral_norm_normalises_each_layer():
    critic = nn.MLPCritic(3, width=8, key=KEY)
    normalised = nn.spectral_norm(critic)
    layers = normalised.layers
    assert all(isinstance(layer, nn.SpectralNorm) for layer in layers)
    for layer, plain in zip(layers, critic.layers, strict=True):
        size = plain.weight.shape[1]
        jacobian = jnp.atleast_2d(jax.jacobian(layer)(jnp.zeros(size)))
        assert 0.997 < singular_values(jacobian)[0] <= 1 + 1e-12
        np.testing.assert_allclose(jnp.atleast_1d(layer(jnp.zeros(size))), plain.bias)


def test_spectral_norm_divides_a_convolution_by_the_norm_of_its_kernel():
    conv = eqx.nn.Conv2d(2, 3, 3, use_bias=False, key=KEY)
    x = jr.normal(KEY, (2, 5, 5))
    norm = singular_values(conv.weight.reshape(3, -1))[0]
    np.testing.assert_allclose(nn.SpectralNorm(conv)(x), conv(x) / norm, rtol=3e-3)


# Convex functions


@ft.cache
def convex(strong_convexity):
    model = nn.ICNN(3, width=8, depth=2, strong_convexity=strong_convexity, key=KEY)
    return model, jax.jit(lambda x: model(x)), jax.jit(lambda x: model.transport(x))


@hypothesis.given(st.integers(0, 2**31), st.floats(0.05, 0.95), st.floats(0.1, 10))
@hypothesis.settings(max_examples=30)
@pytest.mark.parametrize("strength", [0.0, 0.5])
def test_an_icnn_is_convex(strength, seed, share, spread):
    _, value, transport = convex(strength)
    x, y = spread * jr.normal(jr.key(seed), (2, 3))
    chord = share * value(x) + (1 - share) * value(y)
    gap = 0.5 * strength * share * (1 - share) * jnp.sum(jnp.square(x - y))
    assert value(share * x + (1 - share) * y) <= chord - gap + 1e-9 * (1 + abs(chord))
    # The gradient of a convex function is monotone.
    product = jnp.sum((transport(x) - transport(y)) * (x - y))
    assert product >= strength * jnp.sum(jnp.square(x - y)) - 1e-9


def test_the_weights_of_an_icnn_are_drawn_independently():
    model = nn.ICNN(3, width=200, key=KEY)
    for passed, mixed in zip(model.passed[1:-1], model.mixed[:-1], strict=True):
        correlations = np.corrcoef(passed.bias, np.asarray(mixed).T)[0, 1:]
        assert np.abs(correlations).max() < 0.35  # five standard deviations


def test_an_icnn_stays_convex_whatever_its_weights():
    model, *_ = convex(0.0)
    wild = jax.tree.map(lambda leaf: -5 * leaf, model)
    x = jr.normal(KEY, (3,))
    assert jnp.linalg.eigvalsh(jax.hessian(wild)(x)).min() >= -1e-9


def test_the_map_of_an_icnn_is_its_gradient():
    model, value, transport = convex(0.5)
    x, direction = jr.normal(KEY, (2, 3))
    step = 1e-5 * direction
    slope = (value(x + step) - value(x - step)) / 2e-5
    np.testing.assert_allclose(jnp.sum(transport(x) * direction), slope, rtol=1e-6)


def test_the_sizes_of_an_icnn():
    make = ft.partial(nn.ICNN, 3, key=KEY)
    small = parameters(ft.partial(make, width=8, depth=2))
    assert parameters(ft.partial(make, width=8, depth=3)) == small + 8 * 8 + 3 * 8 + 8
    assert parameters(ft.partial(make, width=9, depth=2)) > small


def test_an_icnn_learns_an_optimal_map():
    """Between Gaussians of covariances I and diag(4, 1/4) the map is x -> (2 x_1, x_2 / 2)."""
    model = nn.ICNN(2, width=16, depth=2, key=KEY)
    x = jr.normal(KEY, (256, 2))
    target = x * jnp.array([[2.0, 0.5]])
    optimiser = optax.adam(0.03)

    def loss(model):
        return jnp.mean(jnp.square(jax.vmap(model.transport)(x) - target))

    @eqx.filter_jit
    def train(model):
        def step(carry, _):
            model, opt_state = carry
            value, gradient = jax.value_and_grad(loss)(model)
            with jax.numpy_dtype_promotion("standard"):
                updates, opt_state = optimiser.update(gradient, opt_state)
            return (optax.apply_updates(model, updates), opt_state), value

        return jax.lax.scan(step, (model, optimiser.init(model)), length=150)[1]

    losses = train(model)
    assert losses[-1] < 0.02 * losses[0]
