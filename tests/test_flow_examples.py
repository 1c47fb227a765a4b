"""The scripts of flows run from end to end, resume to the same bits, and refuse bad options."""

import dataclasses
import importlib
import json
import subprocess
import sys
from pathlib import Path

import helpers
import jax.numpy as jnp
import numpy as np
import pytest


EXAMPLES = str(Path(__file__).parents[1] / "examples")
SCRIPTS = ("common", "evaluation", "flow_matching", "flow_digits")

pytestmark = helpers.skip_without("examples", "matplotlib", "ot", "sklearn", "tqdm", "tyro")


@pytest.fixture
def scripts(monkeypatch, jax_as_users_have_it):
    """The scripts as modules, found as they find each other."""
    monkeypatch.syspath_prepend(EXAMPLES)
    modules = {name: importlib.import_module(name) for name in SCRIPTS}
    monkeypatch.setattr(modules["flow_matching"], "NUM_EVALUATED", 60)  # less to transport
    monkeypatch.setattr(modules["flow_digits"], "MOST_POINTS", 60)
    monkeypatch.setattr(modules["evaluation"], "MOST_POINTS", 60)
    yield modules
    for name in SCRIPTS:
        sys.modules.pop(name, None)


def is_png(path: Path) -> bool:
    return path.read_bytes().startswith(b"\x89PNG\r\n")


def same_after_an_interruption(script, whole, last):
    """Runs whole and in parts, which must leave the same weights and the same table."""
    script.main(whole)
    parts = dataclasses.replace(whole, output=whole.output.parent / "parts")
    script.main(dataclasses.replace(parts, stop_after=2))
    assert not (parts.output / "table.json").exists()
    script.main(dataclasses.replace(parts, resume=True))
    first, second = (
        (path / last / "checkpoint.eqx").read_bytes().partition(b"\n")[2]
        for path in (whole.output, parts.output)
    )
    assert first == second and len(first) > 2000
    tables = [
        json.loads((path / "table.json").read_text())["table"]
        for path in (whole.output, parts.output)
    ]
    assert str(tables[0]) == str(tables[1])
    return tables[0]


@pytest.mark.slow
def test_flows_in_the_plane_resume_and_are_compared(scripts, tmp_path, capsys):
    script = scripts["flow_matching"]
    config = script.Config(
        method=("cfm", "rectified-2", "light", "mean-shift"),
        steps=3, batch=8, plan_batch=16, pairs=12, width=4, components=3, integration_steps=2,
        output=tmp_path / "whole",
    )  # fmt: skip
    table = same_after_an_interruption(script, config, "rectified-2")
    rows = {"cfm, 2 steps", "cfm, 1 step", "rectified-2, 2 steps", "rectified-2, 1 step"}
    rows |= {"light, 4 steps", "mean-shift, 1 step", "other moons (floor)"}
    assert set(table) == rows
    assert table["cfm, 2 steps"]["evaluations"] == 4
    assert table["cfm, 1 step"]["straightness"] == pytest.approx(0, abs=1e-3)
    assert min(table, key=lambda row: table[row]["W2^2"]) == "other moons (floor)"
    for method in config.method:
        assert is_png(config.output / method / "paths.png")
        assert is_png(config.output / method / "curves.png")
    assert is_png(config.output / "roads.png")
    assert "device: cpu" in capsys.readouterr().out


@pytest.mark.slow
def test_every_flow_in_the_plane_is_made(scripts, tmp_path):
    script = scripts["flow_matching"]
    config = script.Config(
        steps=1, batch=8, plan_batch=16, pairs=32, width=4, components=3, integration_steps=2,
        output=tmp_path,
    )  # fmt: skip
    names = {}
    for method in config.method:
        teacher = script.Field(script.eqx.nn.MLP(3, 2, 4, 1, key=script.jr.key(0)))
        task = script.make_task(config, method, teacher)
        trainer = script.make_trainer(config, task)
        state = trainer.init(task.model(script.jr.key(0)), key=script.jr.key(1))
        _, metrics = trainer.step(state, task.data)
        assert metrics["finite"] and set(task.names) <= set(metrics)
        names[method] = float(metrics["generator_loss"])
    # Both rectifications have one teacher here.
    assert len(set(names.values())) == len(names) - 1


@pytest.mark.slow
def test_digits_resume_and_stand_beside_those_of_critics(scripts, tmp_path):
    script = scripts["flow_digits"]
    beside = tmp_path / "beside.json"
    row = dict.fromkeys(("W2^2", "at least"), 1.0)
    beside.write_text(json.dumps({"table": {"wgan-gp": row, "training set (floor)": row}}))
    config = script.Config(
        method=("ot-cfm", "rectified-2", "mean-shift"),
        steps=3, batch=8, width=4, latent=2, pairs=10, integration_steps=2,
        beside=beside, output=tmp_path / "whole",
    )  # fmt: skip
    table = same_after_an_interruption(script, config, "rectified-2")
    assert {"ot-cfm, 2 steps", "rectified-2, 1 step", "mean-shift, 1 step"} < set(table)
    assert table["training set (floor)"]["W2^2"] < table["mean-shift, 1 step"]["W2^2"]
    assert is_png(config.output / "ot-cfm" / "samples.png")


def test_digits_drift_at_the_temperatures_asked_for(scripts):
    script = scripts["flow_digits"]
    images, config = jnp.zeros((4, 2, 2)).at[0].set(1), script.Config(temperature=(0.3,))
    drifts = [
        script.make_task(config, method, images, None).objective.drift
        for method in ("mean-shift", "sinkhorn-drift", "w-flow")
    ]
    np.testing.assert_allclose(drifts[0].temperatures, [0.3])
    variance = 4 * 0.25 * 0.75
    for drift in drifts[1:]:
        np.testing.assert_allclose(drift.epsilon, variance * np.array(config.epsilon), rtol=1e-6)


@pytest.mark.slow
def test_the_sweep_of_drifts_runs(tmp_path):
    script = Path(EXAMPLES).parent / "benchmarks" / "drift_sweep.py"
    output = tmp_path / "report.json"
    command = [sys.executable, script, "--steps", "3", "--methods", "mean-shift", "w-flow"]
    command += ["--temperatures", "0.02", "0.2", "--epsilons", "0.1", "--output", output]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr[-3000:]
    report = json.loads(output.read_text())
    assert [r["temperature"] for r in report["records"]] == [0.02, 0.2, 0.1]
    assert report["floor"]["W2^2"] < min(r["W2^2"] for r in report["records"])


@pytest.mark.slow
def test_published_protocols_run(tmp_path):
    output = tmp_path / "report.json"
    script = Path(EXAMPLES).parent / "benchmarks" / "flow_published.py"
    for part in ("bridge", "irreducible"):  # the second keeps the records of the first
        command = [sys.executable, script, "--quick", "--parts", part, "--output", output]
        finished = subprocess.run(command, capture_output=True, text=True, check=False)
        assert finished.returncode == 0, finished.stderr[-3000:]
    speed = [sys.executable, script.with_name("flow_speed.py"), "--quick", "--output"]
    finished = subprocess.run(
        [*speed, tmp_path / "speed.json"], capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    records = json.loads((tmp_path / "speed.json").read_text())["records"]
    lengths = {record["coupling"]: record["squared_displacement"] for record in records}
    assert max(lengths["minibatch"], lengths["semidiscrete"]) < 0.9 * lengths["independent"]
    report = json.loads(output.read_text())
    assert [record["dimensions"] for record in report["bridge"]["records"]] == [2, 5, 20, 50]
    losses = {r["coupling"]: r["loss"]["mean"] for r in report["irreducible"]["records"]}
    assert losses["full plan"] < losses["independent"]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("flow_matching", {"method": ("rectified-2",)}, "needs cfm before it"),
        ("flow_matching", {"method": ("rectified-2", "cfm")}, "needs cfm before it"),
        ("flow_matching", {"method": ("cfm", "cfm")}, "each but once"),
        ("flow_matching", {"batch": 513}, "--batch must be at most --plan-batch=512"),
        ("flow_matching", {"batch": 33}, "--batch must be even"),
        ("flow_matching", {"epsilon": 0.0}, "--epsilon must be positive"),
        ("flow_matching", {"resume": True}, "there is no checkpoint at"),
        ("flow_digits", {"method": ("rectified-2",)}, "needs ot-cfm before it"),
        ("flow_digits", {"method": ()}, "one method at least"),
        ("flow_digits", {"batch": 1348}, "--batch must be even and at most 1347"),
        ("flow_digits", {"epsilon": (0.1, -1.0)}, "--epsilon must be positive"),
        ("flow_digits", {"temperature": ()}, "--temperature must be positive"),
        ("flow_digits", {"beside": Path("absent.json")}, "is not a table of image_gan.py"),
        ("flow_digits", {"resume": True}, "there is no checkpoint at"),
    ],
)
def test_bad_options_exit_with_a_message(
    scripts, monkeypatch, capsys, tmp_path, name, options, message
):
    monkeypatch.chdir(tmp_path)
    script = scripts[name]
    with pytest.raises(SystemExit) as end:
        script.main(script.Config(**options))
    assert end.value.code == 2
    assert message in capsys.readouterr().err
    assert not np.any([path.suffix == ".eqx" for path in tmp_path.rglob("*")])
