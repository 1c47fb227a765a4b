"""The examples run from end to end, resume to the same bits, and refuse bad options."""

import json
import os
import re
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import helpers
import pytest


EXAMPLES = Path(__file__).parents[1] / "examples"

pytestmark = helpers.skip_without("examples", "matplotlib", "ot", "sklearn", "tqdm", "tyro")

TINY_DIGITS = "--batch 16 --data-batch 24 --width 8 --latent 2".split()
TINY_FLOW = "--points 20 --steps 2 --stages 2".split()


@pytest.fixture(scope="module")
def compile_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def environment(compile_cache: Path) -> dict[str, str]:
    return os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "JAX_COMPILATION_CACHE_DIR": str(compile_cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


@pytest.fixture
def run(environment, tmp_path: Path):
    """Runs an example as a user does, in a process of its own."""

    def run(script: str, *options: str | Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, EXAMPLES / script, *options]
        return subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
        )

    return run


def is_png(path: Path) -> bool:
    return path.read_bytes().startswith(b"\x89PNG\r\n")


@pytest.mark.slow
def test_digits_resume_is_bitwise(run, tmp_path: Path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    options = [*TINY_DIGITS, "--steps", "4"]
    first = run("digits_generator.py", *options, "--output", whole)
    assert first.returncode == 0, first.stderr
    for extra in (["--stop-after", "2"], ["--resume"]):
        half = run("digits_generator.py", *options, "--output", parts, *extra)
        assert half.returncode == 0, half.stderr

    reports = [json.loads((path / "table.json").read_text()) for path in (whole, parts)]
    assert len(set(reports[0]["losses"])) == 4
    assert reports[0]["losses"] == reports[1]["losses"]
    assert reports[0]["table"] == reports[1]["table"]
    assert is_png(whole / "samples.png") and is_png(whole / "loss.png")
    assert "device: cpu" in first.stdout
    # The rows that need no training: the floor lies below the Gaussians.
    table = reports[0]["table"]
    floor = table["training set (floor)"]
    for name in ("Gaussian", "Gaussian, clipped"):
        assert floor["w2_squared"] < table[name]["w2_squared"]
        assert floor["sinkhorn_divergence"] < table[name]["sinkhorn_divergence"]

    other = run("digits_generator.py", *options, "--output", parts, "--resume", "--seed", "1")
    assert other.returncode == 2
    assert "was made with seed=0, not 1" in other.stderr

    checkpoint = parts / "checkpoint.eqx"
    checkpoint.write_bytes(checkpoint.read_bytes()[:-40])
    broken = run("digits_generator.py", *options, "--output", parts, "--resume")
    assert broken.returncode == 2
    assert "is not a checkpoint of this script" in broken.stderr


@pytest.fixture
def interrupted(environment, tmp_path: Path):
    """Presses Ctrl-C once an example has shown a first step, or a stage."""

    def interrupted(script: str, *options: str | Path) -> tuple[int, str]:
        command = [sys.executable, EXAMPLES / script, *options]
        # In the background a shell makes the key ignored, by all that it starts.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        process = subprocess.Popen(
            command, env=environment, cwd=tmp_path, stderr=subprocess.PIPE, text=True
        )
        signal.signal(signal.SIGINT, before)
        with process:
            assert process.stderr is not None
            told = ""
            while not re.search(r" [1-9]\d*/\d+ ", told):  # of the progress bar
                character = process.stderr.read(1)
                assert character, told
                told += character
            process.send_signal(signal.SIGINT)
            told = process.stderr.read()
        return process.returncode, told

    return interrupted


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "options", "folder"),
    [
        ("digits_generator.py", TINY_DIGITS, ""),
        ("toy_gan.py", "--batch 16 --width 8".split(), ""),
        ("flow_matching.py", "--method cfm --batch 16 --width 8".split(), "cfm"),
    ],
)
def test_ctrl_c_ends_with_one_line_and_a_checkpoint(
    run, interrupted, tmp_path: Path, script, options, folder
):
    options = [*options, "--steps", "1000000", "--output", tmp_path / "out"]
    code, told = interrupted(script, *options)
    assert code == 130 and "Traceback" not in told
    last = re.split(r"[\r\n]+", told.strip())[-1]
    found = re.fullmatch(r"(?:\w+: )?stopped after step (\d+) of 1000000; --resume goes on\.", last)
    assert found, told
    assert (tmp_path / "out" / folder / "checkpoint.eqx").exists()
    # Its number of steps is that of the checkpoint: going on for one step ends after the next.
    following = str(int(found[1]) + 1)
    after = run(script, *options, "--resume", "--stop-after", following)
    assert after.returncode == 0, after.stderr
    assert f"stopped after step {following}" in after.stdout


@pytest.mark.slow
def test_ctrl_c_where_there_is_no_checkpoint(interrupted):
    # So many steps that the first of twenty stages leaves time to press.
    options = "--batch 16 --width 8 --steps 200000".split()
    code, told = interrupted("vanishing_gradients.py", *options)
    assert code == 130 and "Traceback" not in told
    assert told.endswith("\ninterrupted.\n")


@pytest.mark.slow
def test_digits_stop_at_a_broken_step_and_keep_the_checkpoint(run, tmp_path: Path):
    # The first step makes weights so large that the images of the second are NaN.
    options = [*TINY_DIGITS, "--steps", "3", "--checkpoint-interval", "1"]
    end = run("digits_generator.py", *options, "--learning-rate", "1e15", "--output", tmp_path)
    assert end.returncode == 1
    assert "became non-finite in step 2" in end.stderr
    assert "Lower --learning-rate" in end.stderr
    assert (tmp_path / "checkpoint.eqx").exists()
    assert not (tmp_path / "checkpoint.tmp").exists()


@pytest.mark.slow
def test_flow_draws_a_mesh(run, tmp_path: Path):
    mesh = tmp_path / "tetrahedron.obj"
    mesh.write_text("# four vertices\nv 0 0 0\nv 1 0 0\nv 0 1 0\nvn 0 0 1\nv 0 0 1\nf 1 2 3\n")
    absent = run("point_cloud_flow.py", "--obj", tmp_path / "absent.obj")
    assert absent.returncode == 2
    assert "Traceback" not in absent.stderr
    for extra in ([], ["--obj", mesh], ["--start", mesh, "--points", "3"]):
        picture = tmp_path / f"flow{len(extra)}.png"
        end = run("point_cloud_flow.py", *TINY_FLOW, "--output", picture, *extra)
        assert end.returncode == 0, end.stderr
        assert is_png(picture)
        assert picture.with_suffix(".gif").read_bytes().startswith(b"GIF89a")
        assert "unconverged=0" in end.stderr


@pytest.mark.slow
def test_photographs_exchange_their_colours(run, tmp_path: Path):
    picture = tmp_path / "colors.png"
    options = ["--every", "40", "--cells", "32", "--output", picture]
    end = run("color_transfer.py", *options)
    assert end.returncode == 0, end.stderr
    assert is_png(picture)
    assert "successful" in end.stdout


@pytest.mark.slow
def test_barycentres_and_cells_are_drawn(run, tmp_path: Path):
    for script, options in (
        ("barycenters.py", "--images 3 --digits 2 --times 2 --tolerance 1e-2"),
        ("laguerre_cells.py", "--points 5 --steps 20 --pixels 20"),
    ):
        picture = tmp_path / f"{script}.png"
        end = run(script, *options.split(), "--output", picture)
        assert end.returncode == 0, end.stderr
        assert is_png(picture)
        assert "unconverged=0" in end.stdout or "error=" in end.stdout


@pytest.mark.parametrize(
    ("script", "options", "message"),
    [
        ("digits_generator.py", ["--resume"], "there is no checkpoint at"),
        ("digits_generator.py", ["--data-batch", "1348"], "--data-batch must be at most 1347"),
        ("digits_generator.py", ["--stop-after", "9", "--steps", "8"], "--stop-after must be"),
        ("digits_generator.py", ["--epsilon", "-1"], "--epsilon must be positive"),
        ("digits_generator.py", ["--learning-rate", "nan"], "--learning-rate must be positive"),
        ("digits_generator.py", ["--steps", "0"], "--steps must be positive"),
        ("digits_generator.py", ["--output", "file.obj"], "--output is no directory"),
        ("digits_generator.py", ["--steps", "many"], "many"),
        ("point_cloud_flow.py", ["--obj", "absent.obj"], "absent.obj cannot be read"),
        ("point_cloud_flow.py", ["--obj", "file.obj"], "file.obj must hold two distinct vertices"),
        ("point_cloud_flow.py", ["--obj", "broken.obj"], "broken.obj cannot be read"),
        ("point_cloud_flow.py", ["--start", "broken.obj"], "--start: broken.obj cannot be read"),
        ("point_cloud_flow.py", ["--points", "1"], "--points must be at least 2"),
        ("color_transfer.py", ["--every", "0"], "--every must be at least 1"),
        ("color_transfer.py", ["--first", "nothing.jpg"], "must be china.jpg or flower.jpg"),
        ("point_cloud_flow.py", ["--epsilon", "0"], "--epsilon must be positive"),
        ("barycenters.py", ["--epsilon", "0"], "--epsilon must be positive"),
        ("barycenters.py", ["--images", "171"], "--images must be from 1 to 170"),
        ("laguerre_cells.py", ["--points", "1"], "--points must be at least 2"),
    ],
)
def test_bad_options_exit_with_a_message(monkeypatch, capsys, tmp_path, script, options, message):
    (tmp_path / "file.obj").write_text("")
    (tmp_path / "broken.obj").write_text("v 1 2\nv 1 2 x\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [script, *options])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(EXAMPLES / script), run_name="__main__")
    assert end.value.code == 2
    assert message in capsys.readouterr().err
