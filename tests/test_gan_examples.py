"""The scripts that train generators run from end to end, resume to the same bits, refuse bad input,
and measure what they say."""

import dataclasses
import gzip
import importlib
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import helpers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import otjax
from otjax.gan import (
    JensenShannonGAN,
    OneSided,
    PenalisedWGAN,
    SinkhornGAN,
    Trainer,
    TwoSided,
    WGAN,
)


EXAMPLES = str(Path(__file__).parents[1] / "examples")
SCRIPTS = ("common", "evaluation", "image_gan", "toy_gan", "vanishing_gradients")

pytestmark = helpers.skip_without("examples", "matplotlib", "ot", "sklearn", "tqdm", "tyro")


@pytest.fixture
def scripts(monkeypatch, jax_as_users_have_it):
    """The scripts as modules, found as they find each other."""
    monkeypatch.syspath_prepend(EXAMPLES)
    modules = {name: importlib.import_module(name) for name in SCRIPTS}
    monkeypatch.setattr(modules["toy_gan"], "NUM_EVALUATED", 200)  # less to transport
    yield modules
    for name in SCRIPTS:
        sys.modules.pop(name, None)


def is_png(path: Path) -> bool:
    return path.read_bytes().startswith(b"\x89PNG\r\n")


def idx_bytes(array: np.ndarray, kind: int = 8) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, kind, array.ndim]) + sizes + array.tobytes()


def refused(capsys, script, **options) -> str:
    """The message with which a script ends, with exit code 2."""
    with pytest.raises(SystemExit) as end:
        script.main(script.Config(**options))
    assert end.value.code == 2
    return capsys.readouterr().err


def tiny_image_config(scripts, **options):
    small = {"steps": 2, "batch": 8, "n_critic": 2, "latent": 2, "width": 4}
    return scripts["image_gan"].Config(**(small | options))


@pytest.fixture
def traces(monkeypatch) -> list[None]:
    """Grows by one whenever a training step is traced."""
    traces, critic_steps = [], Trainer._critic_steps

    def counted(self, state, data, key):
        traces.append(None)
        return critic_steps(self, state, data, key)

    monkeypatch.setattr(Trainer, "_critic_steps", counted)
    return traces


@pytest.mark.slow
def test_image_gan_resumes_bitwise_and_compiles_its_step_once(scripts, tmp_path, traces, capsys):
    main = scripts["image_gan"].main
    whole = tiny_image_config(scripts, steps=4, output=tmp_path / "whole")
    main(whole)
    assert len(traces) == 1
    printed = capsys.readouterr().out
    assert "device: cpu" in printed and "precision: float32" in printed
    parts = dataclasses.replace(whole, output=tmp_path / "parts")
    main(dataclasses.replace(parts, stop_after=2))
    assert not (tmp_path / "parts/table.json").exists()
    main(dataclasses.replace(parts, resume=True))

    first, second = (
        (tmp_path / name / "wgan-gp/checkpoint.eqx").read_bytes().partition(b"\n")
        for name in ("whole", "parts")
    )
    assert first[2] == second[2]
    assert len(first[2]) > 5_000
    tables = [
        json.loads((tmp_path / name / "table.json").read_text()) for name in ("whole", "parts")
    ]
    assert tables[0]["table"] == tables[1]["table"]
    assert is_png(tmp_path / "whole/wgan-gp/samples.png")
    assert is_png(tmp_path / "whole/wgan-gp/curves.png")
    # The rows that need no training: the floor beats the Gaussian in every respect.
    floor, gaussian = (
        tables[0]["table"][name] for name in ("training set (floor)", "Gaussian, clipped")
    )
    assert floor["W2^2"] < gaussian["W2^2"] and floor["Frechet"] < gaussian["Frechet"]
    assert floor["precision"] > gaussian["precision"]
    assert floor["classes"] == 10

    message = refused(capsys, scripts["image_gan"], **vars(parts) | {"resume": True, "seed": 1})
    assert "was made with seed=0, not 1" in message
    checkpoint = tmp_path / "parts/wgan-gp/checkpoint.eqx"
    checkpoint.write_bytes(checkpoint.read_bytes()[:-40])
    message = refused(capsys, scripts["image_gan"], **vars(parts) | {"resume": True})
    assert "is not a checkpoint of this script" in message
    checkpoint.unlink()
    checkpoint.mkdir()
    message = refused(capsys, scripts["image_gan"], **vars(parts) | {"resume": True})
    assert "is not a checkpoint of this script" in message


def test_labels_that_are_no_classes_are_refused(scripts, tmp_path, capsys):
    images = tmp_path / "t-images-idx3-ubyte"
    images.write_bytes(idx_bytes(np.eye(8, dtype=np.uint8)[None].repeat(8, axis=0)))
    for labels in np.arange(7, dtype=np.uint8), np.linspace(0, 1, 8, dtype=">f4"):
        code = 13 if labels.dtype.kind == "f" else 8
        (tmp_path / "t-labels-idx1-ubyte").write_bytes(idx_bytes(labels, code))
        message = refused(
            capsys, scripts["image_gan"], data=str(images), batch=2, output=tmp_path / "out"
        )
        assert "must hold 8 whole numbers" in message
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_image_gan_plays_the_other_games_on_an_idx_file(scripts, tmp_path, traces, capsys):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (60, 8, 8), np.uint8), np.arange(60, dtype=np.uint8) % 2
    path = tmp_path / "t-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(idx_bytes(images)))
    (tmp_path / "t-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx_bytes(labels)))
    losses = ("wgan-clip", "wgan-lp", "jensen-shannon", "w2")
    output = tmp_path / "out"
    scripts["image_gan"].main(
        tiny_image_config(scripts, data=str(path), loss=losses, output=output)
    )
    assert len(traces) == len(losses)  # also of w2, whose epsilon changes at each step
    table = json.loads((output / "table.json").read_text())["table"]
    assert set(losses) < set(table)
    assert "classes" in table["w2"]
    for loss in losses:
        assert is_png(output / loss / "samples.png")
        assert all(math.isfinite(value) for value in table[loss].values())
    assert "wrong on the test images" in capsys.readouterr().out


@pytest.mark.slow
def test_image_gan_has_convolutions_and_needs_no_labels(scripts, tmp_path, capsys):
    path = tmp_path / "images.idx"
    path.write_bytes(idx_bytes(np.random.default_rng(0).random((40, 8, 8)).astype(">f4"), 13))
    options = {"network": "conv", "loss": ("lipschitz",), "output": tmp_path / "out"}
    scripts["image_gan"].main(tiny_image_config(scripts, data=str(path), **options))
    assert "no labels beside --data" in capsys.readouterr().out
    assert (
        "classes" not in json.loads((tmp_path / "out/table.json").read_text())["table"]["lipschitz"]
    )


def test_a_broken_step_ends_the_run_and_keeps_the_checkpoint(scripts, tmp_path):
    config = scripts["toy_gan"].Config(
        steps=30,
        batch=8,
        width=4,
        components=2,
        loss="jensen-shannon",
        learning_rate=1e30,
        n_critic=1,
        checkpoint_interval=1,
        output=tmp_path,
    )
    with pytest.raises(SystemExit) as end:
        scripts["toy_gan"].main(config)
    assert "became non-finite in step" in str(end.value.code)
    assert "Lower the learning rates" in str(end.value.code)
    assert (tmp_path / "checkpoint.eqx").exists()
    assert not (tmp_path / "checkpoint.tmp").exists()
    assert not (tmp_path / "table.json").exists()


@pytest.mark.parametrize("data", ["grid", pytest.param("roll", marks=pytest.mark.slow)])
def test_toy_gan_runs_and_compiles_its_step_once(scripts, tmp_path, traces, data):
    # The game is the default's in the first case, whose solver takes long to compile.
    loss = {"grid": "w1", "roll": "lipschitz"}[data]
    scripts["toy_gan"].main(
        scripts["toy_gan"].Config(
            data=data, loss=loss, steps=2, batch=8, width=4, components=2, output=tmp_path
        )
    )
    assert len(traces) == 1
    table = json.loads((tmp_path / "table.json").read_text())["table"]
    floor, gaussian = table["other real (floor)"], table["Gaussian"]
    assert floor["modes found"] == floor["of"] >= gaussian["modes found"]
    # Within 3 sigma in the plane: 1 - exp(-9 / 2) = 0.989, and more where the nodes are dense.
    assert floor["good"] > 0.95 > 0.5 > gaussian["good"]
    assert floor["W2^2"] < gaussian["W2^2"]
    assert is_png(tmp_path / "samples.png") and is_png(tmp_path / "curves.png")


class Handed(NamedTuple):
    """What a script hands to its training loop."""

    trainer: Any  # of the first step
    trainer_at: Callable[[int], Any]
    state: Any
    data: Any
    names: tuple[str, ...]


@pytest.fixture
def handed_to_training(scripts, monkeypatch, tmp_path):
    """Runs a script up to its training, of which none is done; one `Handed` for each loss."""

    def handed_to_training(script, **options) -> list[Handed]:
        calls = []

        def train(options, trainer_at, progress, data, path, names):
            calls.append(Handed(trainer_at(0), trainer_at, progress.state, data, names))
            return progress

        monkeypatch.setattr(scripts[script], "train", train)
        small = {"batch": 8, "width": 4, "output": tmp_path}
        scripts[script].main(scripts[script].Config(**(small | options)))
        return calls

    return handed_to_training


def learning_rates(optimiser: optax.GradientTransformation, num: int) -> np.ndarray:
    """Those of the first steps of Adam, whose steps at a constant gradient are the rate."""
    one = jnp.ones(())
    state, steps = optimiser.init(one), []
    update = jax.jit(optimiser.update)
    for _ in range(num):
        step, state = update(one, state, one)
        steps.append(-step)
    return np.array(steps)


def cosine(rate: float, num: int) -> np.ndarray:
    return rate * (1 + np.cos(np.pi * np.arange(num + 1) / num)) / 2


@pytest.mark.parametrize(("script", "loss"), [("image_gan", ("wgan-gp",)), ("toy_gan", "wgan-gp")])
def test_a_training_run_is_as_long_and_as_fast_as_asked_for(handed_to_training, script, loss):
    (game,) = handed_to_training(
        script,
        loss=loss,
        steps=2,
        n_critic=3,
        batch=9,
        latent=4,
        learning_rate=0.2,
        critic_learning_rate=0.4,
    )
    trainer = game.trainer
    assert (trainer.n_critic, trainer.batch_size, trainer.latent.gaussian) == (3, 9, 4)
    generator, critic = trainer.generator_optimiser, trainer.critic_optimiser
    np.testing.assert_allclose(learning_rates(generator, 3), cosine(0.2, 2), atol=1e-6)
    np.testing.assert_allclose(learning_rates(critic, 7), cosine(0.4, 6), atol=1e-6)


def test_the_penalties_and_the_clipping_of_image_gan_are_those_asked_for(handed_to_training):
    losses = ("wgan-gp", "wgan-lp", "wgan-clip", "w2")
    two_sided, one_sided, clipped, w2 = handed_to_training(
        "image_gan", loss=losses, penalty=3.0, clip=0.01, n_critic=2
    )
    for game in two_sided, one_sided:
        assert isinstance(game.trainer.objective, PenalisedWGAN)
        assert float(game.trainer.objective.weight) == 3
    assert two_sided.trainer.objective.penalty == TwoSided()
    assert one_sided.trainer.objective.penalty == OneSided()
    assert [game.trainer.n_critic for game in (clipped, w2)] == [2, 0]

    def largest_weight(game: Handed) -> float:
        """Of the critic, after one update."""
        critic = eqx.filter(game.state.critic, eqx.is_inexact_array)
        updates, _ = game.trainer.critic_optimiser.update(
            critic, game.state.critic_opt_state, critic
        )
        leaves = jax.tree.leaves(optax.apply_updates(critic, updates))
        return max(float(abs(leaf).max()) for leaf in leaves)

    assert largest_weight(clipped) == pytest.approx(0.01, rel=1e-5)
    assert largest_weight(two_sided) > 0.1


def test_epsilon_falls_from_a_tenth_of_the_variance_to_what_is_asked_for(
    scripts, handed_to_training
):
    options = {"loss": ("w2",), "epsilon": 0.004, "steps": 8}
    (game,) = handed_to_training("image_gan", **options)
    variance = scripts["image_gan"].load_images("digits").train.var(axis=0).sum()
    epsilons = [game.trainer_at(step).objective.epsilon / variance for step in range(8)]
    # By equal factors, and constant over the last quarter.
    np.testing.assert_allclose(epsilons[:7], np.geomspace(0.1, 0.004, 7), rtol=1e-5)
    np.testing.assert_allclose(epsilons[6:], 0.004, rtol=1e-5)
    # Where the trainer is made there is no annealing.
    script = scripts["image_gan"]
    objective = script.make_game(script.Config(**options), "w2", 5.0).objective
    assert float(objective.epsilon) == pytest.approx(0.02)


def test_no_more_images_are_drawn_than_are_compared(scripts, tmp_path, monkeypatch):
    script, lengths = scripts["image_gan"], []

    def train(options, trainer_at, progress, *rest):
        return eqx.tree_at(lambda p: p.state.step, progress, jnp.asarray(options.steps))

    def evaluate(images, test, classifier):
        lengths.append(len(images))
        return {}

    for name, value in {"train": train, "evaluate": evaluate, "MOST_POINTS": 20}.items():
        monkeypatch.setattr(script, name, value)
    for name in ("draw_images", "draw_curves"):
        monkeypatch.setattr(script, name, lambda *args: None)
    path = tmp_path / "images.idx"
    path.write_bytes(idx_bytes(np.random.default_rng(0).integers(0, 256, (40, 8, 8), np.uint8)))
    script.main(tiny_image_config(scripts, data=str(path), output=tmp_path / "out"))
    # Generated, of the training set, and Gaussian.
    assert lengths == [20, 30, 20]


TOY_GAMES = {
    "w1": (SinkhornGAN, {"epsilon": 0.02, "cost": otjax.Euclidean()}),
    "w2": (SinkhornGAN, {"epsilon": 0.02, "cost": otjax.SqEuclidean()}),
    "wgan-gp": (PenalisedWGAN, {"weight": 3, "penalty": TwoSided()}),
    "wgan-lp": (PenalisedWGAN, {"weight": 3, "penalty": OneSided()}),
    "lipschitz": (WGAN, {}),
    "jensen-shannon": (JensenShannonGAN, {"saturating": False}),
}


@pytest.mark.parametrize("loss", TOY_GAMES)
def test_toy_gan_plays_the_game_asked_for(handed_to_training, loss):
    (game,) = handed_to_training(
        "toy_gan", loss=loss, penalty=3.0, epsilon=0.02, n_critic=2, components=2
    )
    kind, fields = TOY_GAMES[loss]
    trainer = game.trainer
    assert type(trainer.objective) is kind
    for name, value in fields.items():
        field = getattr(trainer.objective, name)
        assert (pytest.approx(float(field)) if eqx.is_array(field) else field) == value
    assert trainer.n_critic == (0 if kind is SinkhornGAN else 2)
    assert (type(game.state.critic).__name__ == "LipschitzMLP") == (loss == "lipschitz")
    # The step fits its parts together, and measures what is drawn.
    _, metrics = eqx.filter_eval_shape(trainer.step, game.state, game.data)
    assert {*game.names, "finite"} <= set(metrics)


def test_toy_gan_draws_the_points_asked_for(handed_to_training):
    points, radii, angles = {}, {}, {}
    for data in ("eight", "grid", "roll"):
        (game,) = handed_to_training("toy_gan", data=data, components=2, batch=100)
        points[data] = np.asarray(game.data(jax.random.key(0)))
        assert points[data].shape == (100, 2)
        radii[data] = np.linalg.norm(points[data], axis=1)
        angles[data] = np.arctan2(points[data][:, 1], points[data][:, 0])
    # Within 6 sigma: on the circle of radius 2, and on whole numbers.
    np.testing.assert_allclose(radii["eight"], 2, atol=0.3)
    np.testing.assert_allclose(points["grid"], points["grid"].round(), atol=0.3)
    # On a spiral of slope 2 / (4.5 pi) the angle is told by the radius, but for whole turns.
    turns = (radii["roll"] * 2.25 * np.pi - angles["roll"]) / (2 * np.pi)
    np.testing.assert_allclose(turns, turns.round(), atol=0.3)


def test_the_critic_of_the_toy_reads_frequencies_of_the_scale_asked_for(scripts):
    toy = scripts["toy_gan"]
    low, high = (
        toy.make_critic(toy.Config(loss="wgan-gp", frequency=frequency), jax.random.key(0))
        for frequency in (2.0, 6.0)
    )
    np.testing.assert_allclose(high.features.frequencies, 3 * low.features.frequencies, rtol=1e-6)


@pytest.mark.slow
def test_the_gradient_vanishes_for_one_loss_and_not_for_the_other(scripts, tmp_path, capsys):
    config = scripts["vanishing_gradients"].Config(
        distances=(0.5, 1.0), steps=400, batch=32, width=16, learning_rate=5e-3, output=tmp_path
    )
    scripts["vanishing_gradients"].main(config)
    table = json.loads((tmp_path / "table.json").read_text())["table"]
    for distance in config.distances:
        row = table[f"distance {distance:g}"]
        assert row["W1"] == pytest.approx(distance, abs=0.1)
        assert row["d W1"] == pytest.approx(1, abs=0.05)
        assert row["JS"] == pytest.approx(math.log(2), abs=0.02)
        assert abs(row["d JS"]) < 0.1
    assert is_png(tmp_path / "vanishing_gradients.png")
    assert "precision: float32" in capsys.readouterr().out


def test_the_parts_of_the_evaluation_have_their_closed_forms(scripts):
    evaluation, rng = scripts["evaluation"], np.random.default_rng(0)
    cloud = rng.normal(size=(50, 3)).astype(np.float32)
    shift = np.array([1, 2, 2], np.float32)
    assert evaluation.frechet_distance(cloud, cloud) == pytest.approx(0, abs=1e-6)
    assert evaluation.frechet_distance(cloud, cloud + shift) == pytest.approx(9, rel=1e-5)
    # Covariances C and 4 C: tr(C + 4 C - 2 * 2 C) = tr C.
    centred = cloud - cloud.mean(axis=0)
    trace = np.trace(np.cov(centred.T))
    assert evaluation.frechet_distance(centred, 2 * centred) == pytest.approx(trace, rel=1e-4)
    assert evaluation.precision_recall(cloud, cloud) == (1, 1)
    assert evaluation.precision_recall(cloud, cloud + 100) == (0, 0)
    # All fake points at a real one: precise, but what lies elsewhere is not covered.
    precision, recall = evaluation.precision_recall(cloud, cloud[:1] + 1e-3 * cloud)
    assert precision == 1 and recall < 0.1
    assert evaluation.exact_w2(cloud, cloud + shift) == pytest.approx(9, rel=1e-5)
    proven = evaluation.proven_w2(cloud, cloud + shift)
    assert 0.98 * 9 < proven["at least"] < 9.001 and 8.999 < proven["W2^2"] < 1.01 * 9
    images = rng.random((400, 1, 2, 2)).astype(np.float32) * 0.2 + 0.4
    gaussian = evaluation.fitted_gaussian(images, 20_000, 0)
    assert gaussian.shape == (20_000, 1, 2, 2)
    vectors, expected = gaussian.reshape(-1, 4), images.reshape(-1, 4)
    assert np.allclose(vectors.mean(axis=0), expected.mean(axis=0), atol=2e-3)
    assert np.allclose(np.cov(vectors.T), np.cov(expected.T), atol=2e-4)


def test_modes_are_counted(scripts):
    mixture = scripts["toy_gan"].make_mixture("eight", 4)
    centres = np.asarray(mixture.nodes)
    assert mixture.coverage(centres) == {"modes found": 8, "of": 8, "good": 1}
    points = np.concatenate([centres[:2], centres[:2] + [0.1, 0.1], centres[:2] + [0.11, 0.11]])
    # sqrt(2) * 0.1 < 3 sigma = 0.15 < sqrt(2) * 0.11.
    assert mixture.coverage(points) == {"modes found": 2, "of": 8, "good": pytest.approx(4 / 6)}


BAD_IMAGES = {
    "absent": (None, "cannot be read"),
    "text": (b"not an idx file", "is not an IDX file"),
    "empty": (b"", "is not an IDX file"),
    "torn": (idx_bytes(np.zeros((4, 8, 8), np.uint8))[:-5], "is damaged"),
    "labels": (idx_bytes(np.arange(9, dtype=np.uint8)), "must hold images, of shape"),
    "no-images": (idx_bytes(np.zeros((0, 8, 8), np.uint8)), "must hold images, of shape"),
    "black": (idx_bytes(np.zeros((4, 8, 8), np.uint8)), "not all the same"),
    "nan": (idx_bytes(np.full((4, 8, 8), np.nan, ">f4"), 13), "NaN, infinite or negative"),
    "torn.gz": (gzip.compress(b"\0\0\x08\3")[:-6], "cannot be read"),
    "plain.gz": (b"\0\0\x08\3", "cannot be read"),
    "four": (
        idx_bytes(np.eye(8, dtype=np.uint8)[None].repeat(4, axis=0)),
        "five images at least",
    ),
    "few": (
        idx_bytes(np.eye(8, dtype=np.uint8)[None].repeat(8, axis=0)),
        "--batch must be at most 6",
    ),
}


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_bad_images_are_refused(scripts, tmp_path, capsys, name):
    content, message = BAD_IMAGES[name]
    path, output = tmp_path / name, tmp_path / "out"
    if content is not None:
        path.write_bytes(content)
    assert message in refused(capsys, scripts["image_gan"], data=str(path), output=output)
    assert not output.exists()


@pytest.mark.parametrize(
    ("script", "options", "message"),
    [
        ("image_gan", {"batch": 1348}, "--batch must be at most 1347"),
        ("image_gan", {"resume": True}, "there is no checkpoint at"),
        ("image_gan", {"stop_after": 9, "steps": 8}, "--stop-after must be at most --steps=8"),
        ("image_gan", {"learning_rate": math.nan}, "--learning-rate must be positive and finite"),
        ("image_gan", {"loss": ("w2", "w2")}, "--loss must name"),
        (
            "image_gan",
            {"loss": ("lipschitz",), "width": 7},
            "--loss lipschitz --network mlp --width",
        ),
        ("image_gan", {"seed": -1}, "--seed must be from 0"),
        ("toy_gan", {"seed": 2**64}, "--seed must be from 0"),
        ("vanishing_gradients", {"seed": 2**64}, "--seed must be from 0"),
        ("toy_gan", {"steps": 0}, "--steps must be positive"),
        ("toy_gan", {"epsilon": -1.0}, "--epsilon must be positive"),
        ("toy_gan", {"resume": True}, "there is no checkpoint at"),
        ("toy_gan", {"loss": "lipschitz", "width": 7}, "--width must be even"),
        ("vanishing_gradients", {"distances": (1.0, math.inf)}, "--distances must be positive"),
        ("vanishing_gradients", {"width": 3}, "--width must be even"),
        ("vanishing_gradients", {"steps": 0}, "--steps must be positive"),
    ],
)
def test_bad_options_are_refused(scripts, tmp_path, capsys, script, options, message):
    output = tmp_path / "out"
    assert message in refused(capsys, scripts[script], **options, output=output)
    assert not output.exists()


@pytest.mark.parametrize("script", ["image_gan", "toy_gan", "vanishing_gradients"])
def test_a_file_in_the_place_of_the_output_is_left_alone(scripts, tmp_path, capsys, script):
    output = tmp_path / "out"
    output.write_text("mine")
    assert "--output is no directory" in refused(capsys, scripts[script], output=output)
    assert output.read_text() == "mine"
