"""What the benchmark against the peers says is right: errors, conventions, search, summary."""

import json
import math
import pathlib
import subprocess
import sys
import time
import unittest.mock
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import otjax
from otjax.testing import check_geometry


BENCHMARKS = str(pathlib.Path(__file__).parents[1] / "benchmarks")


@pytest.fixture
def peers(monkeypatch):
    """The package beside the script, found as the script finds it."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    from peers import contestants, measure, problems, report

    yield (contestants, measure, problems, report)
    forget("peers", "against_peers", "host")


@pytest.fixture
def gpu(monkeypatch):
    """The script for a GPU, and its parts."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    import gpu_engine
    from gpu import checks, times

    yield (gpu_engine, checks, times)
    forget("gpu", "gpu_engine", "accelerator", "host")


def forget(*modules):
    for name in [name for name in sys.modules if name.split(".")[0] in modules]:
        del sys.modules[name]


def weighted_problem(problems, n=24, m=32):
    rng = np.random.default_rng(0)
    clouds = problems.normal(max(n, m), 2)
    a, b = (rng.uniform(0.5, 1.5, size) for size in (n, m))
    clouds = problems.Clouds(clouds.x[:n], clouds.y[:m], a / a.sum(), b / b.sum())
    return problems.problem_of(clouds, 0.1, "float64")


def test_the_error_is_that_of_both_marginals(peers):
    _, measure, problems, _ = peers
    problem = weighted_problem(problems)
    # One point on each side repeated: the plan of f + g = C is the product of the masses.
    problem = problem._replace(x=0 * problem.x, y=0 * problem.y + 1)
    judge = measure.Judge(problem)
    f, g = np.full(24, 1.5), np.full(32, 0.5)
    assert judge.check(f, g).error == pytest.approx(0, abs=1e-14)
    assert judge.check(f, g).value == pytest.approx(2)
    # Twice that plan: both marginals are off by the whole mass, and the dual pays for it.
    twice = judge.check(f + float(problem.epsilon) * math.log(2), g)
    assert twice.error == pytest.approx(2)
    assert twice.value == pytest.approx(2 + float(problem.epsilon) * (math.log(2) - 1))
    assert math.isnan(judge.check(f * np.nan, g).error)
    assert math.isnan(judge.check(f - np.inf, g).error)

    batch = problems.Problem(*(np.stack([array, array]) for array in problem))
    shift = np.array([[0.0], [float(problem.epsilon) * math.log(2)]])
    checked = measure.Judge(batch).check(np.stack([f, f]) + shift, np.stack([g, g]))
    assert checked.error == pytest.approx(2)


def test_contestants_solve_one_problem_and_their_potentials_are_read_alike(peers):
    contestants, measure, problems, _ = peers
    problem = weighted_problem(problems)
    judge = measure.Judge(problem)
    values = []
    for name in ("otjax: default", "POT: sinkhorn", "POT: log", "POT: stabilized"):
        run, read = contestants.REGISTRY[name].make(problem)
        loose, tight = (judge.check(*read(run(tolerance))[:2]) for tolerance in (1e-2, 1e-7))
        assert tight.error <= 1.1e-7 < loose.error
        values.append(tight.value)
    assert values == pytest.approx([values[0]] * 4, rel=1e-6)


@pytest.mark.slow
def test_the_passes_of_a_solve_are_counted(peers):
    """All that a solve makes of a geometry; what counts keeps the contract of a geometry."""
    *_, problems, _ = peers
    from peers import profile

    x = jnp.asarray(problems.normal(12, 2).x)
    tally = profile.Tally()
    check_geometry(profile.CountedGeometry(otjax.PointCloud(x[:8], x), tally, False))
    jax.effects_barrier()
    assert set(tally.counts) == set(profile.IN_ORDER[:7])

    problem = problems.problem_of(problems.normal(32, 2), 5e-4, "float64")
    counted, solution = profile.counts(problem, 1e-5)
    steps = int(solution.stats.num_steps)
    made, *products = (counted[kind] for kind in (profile.MADE, *profile.PRODUCTS))
    # A step is a product from either side at least, and a plan serves many of them.
    assert 1 < made < steps <= min(products)
    # Newton's first directions are of single precision.
    assert counted[profile.MADE + profile.SINGLE] <= counted[profile.PRODUCTS[0] + profile.SINGLE]
    entropic = otjax.EntropicProblem(
        otjax.PointCloud(problem.x, problem.y), epsilon=problem.epsilon
    )
    plain = otjax.solve(entropic, tolerance=1e-5, throw=False)
    assert int(plain.stats.num_steps) == steps


@pytest.mark.parametrize("counts", [False, True])
@pytest.mark.parametrize("guess", [-3, 0, 9])
def test_the_search_finds_the_loosest_setting(peers, counts, guess):
    contestants, measure, _, _ = peers
    target = 1e-3
    contestant = contestants.Contestant("family", "option", lambda problem: None, counts=counts)

    def error(setting):
        return 0.97**setting if counts else 6 * setting

    search = measure.Search(contestant, target, guess)
    errors = {}
    for _ in range(20):
        index = search.index
        errors[index] = error(search.setting)
        if not search.next(errors[index]):
            break
    found = search.passing
    assert errors[found] <= target < errors[found - 1]
    assert len(errors) <= 8


def cell(family, option, seconds, status="reached", value=1.0, **others):
    return {
        "contestant": f"{family}: {option}",
        "family": family,
        "option": option,
        "status": status,
        "seconds": seconds,
        "spent": seconds,
        "value": value,
        "error": 1e-4,
        "iterations": 7,
        "memory": 2**20,
        "reason": "",
        "best_error": None,
        **others,
    }


def test_the_summary_counts_the_best_option_and_every_loss(peers):
    *_, report = peers
    from peers import tables

    def record(name, *cells):
        row = {"data": "normal", "n": 9, "d": 2, "epsilon": 0.1, "dtype": "float64"}
        mine = cell("otjax", "default", 1.0)
        return {"name": name, "row": row, "shape": (9, 9), "cells": [mine, *cells]}

    records = [
        record("slow", cell("OTT-JAX", "a", 9.0), cell("OTT-JAX", "b", 8.0)),
        record("fast", cell("OTT-JAX", "a", 0.5), cell("POT", "a", 2.0)),
        record("late", cell("OTT-JAX", "a", 16.0, "not reached")),
        record("broken", cell("OTT-JAX", "a", 0.1, "garbage"), cell("otjax", "Sinkhorn", 0.5)),
    ]
    found = report.ratios(records, ("OTT-JAX",))
    assert found.known == [(0.5, "fast"), (8.0, "slow")]
    assert found.bounds == [(16.0, "late")]
    assert found.absent == 1
    assert "geometric mean 4x" in found.text() and "least 0.5x (fast)" in found.text()
    assert "at most 2x (Sinkhorn, broken)" in report.own_choice(records)

    table = tables.compact_table(records).splitlines()
    assert len(table) == 2 + len(records)
    assert "8x, 8 s (b)" in table[2] and "0.5x, 500 ms (a)" in table[3]
    assert "> 16x, not in 16 s" in table[4] and "garbage" in table[5]

    missed = record("missed")
    missed["cells"][0] |= {"status": "not reached", "best_error": 1e-2}
    summary = report.summary({"rows": [*records, missed]})
    assert any("did not reach the target in 1 rows: missed" in line for line in summary)


def test_clusters_are_rows_of_their_own(peers):
    """Two mixtures, whose group has its own ratios; at another size they keep their centres."""
    *_, problems, report = peers
    rows = [row for row in problems.rows(problems.Sources()) if row.data == "clusters"]
    assert len(rows) == 2 * 2 * len(problems.EPSILONS) * 2  # sizes, dimensions, dtypes
    assert {(row.n, row.d) for row in rows} == {(n, d) for n in (1024, 2048) for d in (2, 64)}
    x, y, *_ = problems.clusters(1024, 64)
    for points, components in ((x, 4), (y, 5)):
        squares = problems.squared_distances(points, points)
        together = squares < 64 * 2 * 0.3**2 * 3  # of two points of one component
        assert len(np.unique(together, axis=0)) == components
        assert np.mean(squares[together]) == pytest.approx(64 * 2 * 0.3**2, rel=0.05)
        others = problems.clusters(512, 64)[0 if components == 4 else 1]
        assert np.all(np.min(problems.squared_distances(others, points), axis=1) < 64 * 0.3**2 * 3)

    def record(data, seconds):
        row = {"data": data, "n": 9, "d": 2, "epsilon": 0.1, "dtype": "float32"}
        cells = [cell("otjax", "default", 1.0), cell("OTT-JAX", "a", seconds)]
        return {"name": f"{data} {seconds}", "row": row, "shape": (9, 9), "cells": cells}

    records = [record("normal", 8.0), record("clusters", 2.0), record("clusters", 4.5)]
    lines = report.summary({"rows": records})
    assert "OTT-JAX at its best over otjax, float32: geometric mean 8x; 1 rows" in lines[0]
    (line,) = (line for line in lines if line.startswith("Clusters, OTT-JAX"))
    assert "float32: geometric mean 3x; 2 rows; least 2x (clusters 2.0)" in line


def test_a_library_may_get_more_time_than_the_others(peers, monkeypatch):
    """otjax takes 10 ms, so others have the least that any gets, 3 s, or what `patience` says."""
    _, measure, problems, _ = peers
    import against_peers
    from peers.worker import Attempt

    limits = {}

    def search(race, entry, row, shape, limit):
        limits.setdefault(entry.contestant.family, limit)
        if entry.contestant.family == "otjax":
            entry.best, entry.samples = Attempt(1e-3, 0.01), [0.01]

    monkeypatch.setattr(against_peers.Race, "search", search)
    monkeypatch.setattr(against_peers, "installed", lambda family: True)
    monkeypatch.setattr(against_peers, "in_turns", lambda *_: ())
    monkeypatch.setattr(against_peers.Workers, "get", lambda *_: unittest.mock.Mock())
    options = against_peers.Options(patience={"OTT-JAX": 60.0})
    race = against_peers.Race(options, deadline=math.inf)
    race.row(problems.Row("normal", 16, 2, 0.05, "float32"))
    assert limits == {**dict.fromkeys(limits, 3.0), "otjax": 20.0, "OTT-JAX": 60.0}
    assert len(limits) > 2


@pytest.mark.parametrize("seconds", [[0.015, 0.001, 0.003, 0.002, 0.009, 0.002], [0.03]])
def test_a_short_call_is_made_several_times(peers, monkeypatch, seconds):
    """Its first time, after a pause, is that of the processor waking up, and does not count."""
    contestants, *_ = peers
    from peers import worker

    made = []

    def timed(run, setting):
        made.append(setting)
        return None, seconds[len(made) - 1]

    monkeypatch.setattr(worker, "timed", timed)
    answer = contestants.Answer(np.zeros(1), np.zeros(1), None)
    found = worker.attempt(lambda setting: None, lambda output: answer, 0.5)
    assert made == [0.5] * len(seconds)
    assert found.seconds == (0.002 if len(seconds) > 1 else 0.03)


def test_a_wrong_value_is_marked(peers):
    from peers import tables

    cells = [cell("otjax", "default", 1.0), cell("POT", "a", 1.0, value=0.9)]
    tables.mark_wrong_values(cells)
    assert [one["wrong"] for one in cells] == [False, True]


def test_first_calls_are_made_by_processes_of_their_own(peers, monkeypatch, capsys):
    """In turns, each by a worker that is ended after it; the page has their medians and means."""
    *_, problems, report = peers
    import against_peers
    from peers import first_calls

    asked = []

    class Worker:
        def __init__(self, library, dtype):
            self.asked = []

        def ask(self, request, limit):
            assert not self.asked
            self.asked.append(request.arguments)
            asked.append(request.arguments["library"])
            slow = 4.0 if len(asked) == 1 else 2.0
            return {"first": slow if asked[-1] == "otjax" else 1.0, "second": 0.1, "value": 1.0}

        def end(self):
            assert self.asked

    monkeypatch.setattr(against_peers, "Worker", Worker)
    rows = tuple(problems.Row("normal", 8, d, 0.1, "float32") for d in (2, 64))
    done = []
    against_peers.measure_first_calls(done, rows, 3)
    assert asked == ["otjax", "OTT-JAX"] * 3 * 2 * len(first_calls.OPERATIONS)
    against_peers.measure_first_calls(done, rows, 3)
    assert len(asked) == 6 * len(done)
    assert "| solve | 8 x 8 | 2 | float32 | 2 s | 1 s | 2x |" in capsys.readouterr().out

    done[1]["samples"]["OTT-JAX"] = [{"first": 0.5}]
    lines = report.summary({"rows": [], "extras": done})
    (line,) = (line for line in lines if "of its own, value and gradient" in line)
    assert "geometric mean 2x; at most 2x" in next(line for line in lines if "own, solve" in line)
    assert "geometric mean 2.83x; at most 4x (2 s against 500 ms); 2 programs" in line


def test_a_first_call_is_of_what_it_is_named_after(peers, jax_as_users_have_it):
    """By each library that is there, against the solution of NumPy."""
    *_, problems, _ = peers
    from host import truth
    from peers import first_calls
    from peers.worker import installed

    row = problems.Row("normal", 16, 2, 0.1, "float32")
    x, y, a, b, epsilon = problems.load(row, problems.Sources())
    terms = ((x, y, a, b), (x, x, a, a), (y, y, b, b))
    xy, xx, yy = (truth(*term, float(epsilon), math.inf).value for term in terms)
    expected = {"solve": xy, "divergence and gradient": xy - 0.5 * (xx + yy)}
    for library in filter(installed, first_calls.LIBRARIES):
        for operation, value in expected.items():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # those of other libraries
                made = first_calls.first_call(library, operation, row)
            assert made["value"] == pytest.approx(value, rel=1e-3)
            assert made["first"] > made["second"]


def test_the_checks_of_engines_are_of_the_right_solution(gpu):
    """The solution itself passes, with its derivatives; each of them, a little off, does not."""
    _, checks, _ = gpu
    from accelerator import close

    _, _, epsilon, right, _, curvature = checks.expected(12, 9, 2)

    def passed(**off):
        part = lambda name: 1 + off.get(name, 0.0)
        got = (
            (right.value * part("value"), (right.f * part("f") + 2, right.g - 2)),
            (right.by_x * part("by_x"), right.by_epsilon * part("by_epsilon")),
            curvature * part("second"),
        )
        errors = checks.deviations(got, right, curvature, epsilon)
        return close("check", errors, checks.LIMITS)["passed"]

    assert passed()
    for name in ("value", "f", "by_x", "by_epsilon", "second"):
        assert not passed(**{name: 0.03}), name


@pytest.mark.parametrize("d", [2, 16])
def test_errors_of_timed_solves_are_made_afresh(gpu, d):
    """By blocks, in double precision: as the host makes them of the whole matrix."""
    *_, times = gpu
    from host import marginal_error, mixtures, truth

    x, y = mixtures(24, 24, d)
    masses = np.full(24, 1 / 24)
    epsilon = np.float32(0.05 * np.mean(np.sum((x[:, None] - y[None]) ** 2, -1)))
    right = truth(x, y, masses, masses, float(epsilon), math.inf)
    error, by_x = times.afresh(x, y, right.f, right.g, epsilon)
    assert error < 1e-6  # that epsilon is rounded
    np.testing.assert_allclose(by_x, right.by_x, atol=1e-6)
    f = right.f + 0.1 * epsilon
    pair = [np.stack([one, two]) for one, two in ((x, x), (y, y), (f, right.f), (right.g, right.g))]
    (off, none), _ = times.afresh(*pair, np.stack([epsilon, epsilon]))
    assert off == pytest.approx(marginal_error(x, y, f, right.g, float(epsilon)))
    assert off == pytest.approx(2 * math.expm1(0.1), rel=1e-5)
    assert none == pytest.approx(error, abs=1e-9)


def test_a_run_on_a_gpu_ends_and_keeps_what_it_has(gpu, monkeypatch, tmp_path):
    """Parts that are late, fail, or find no time are records, whole after each."""
    script, *_ = gpu
    output = tmp_path / "out.json"
    seen = []

    def late(scale):
        yield {"name": "quick", "passed": True}
        seen.append(json.loads(output.read_text()))
        time.sleep(10)

    def failing(scale):
        yield {"name": "before", "passed": True}
        raise ValueError("no memory")

    def whole(scale):
        yield {"name": "whole", "passed": True}

    parts = {"late": (late, 0.2), "failing": (failing, 9.0), "whole": (whole, 9.0)}
    monkeypatch.setattr(script, "PARTS", parts)
    monkeypatch.setattr(sys, "argv", ["gpu_engine.py", str(output), "--quick"])
    assert script.main() == 1
    report = json.loads(output.read_text())
    names = [record["name"] for record in report["records"]]
    assert names == ["quick", "late", "before", "failing", "whole"]
    assert "after" in report["records"][1]["skipped"]
    assert "no memory" in report["records"][3]["error"]
    assert report["ended"] and not report["passed"]
    assert not seen[0]["ended"] and len(seen[0]["records"]) == 1

    monkeypatch.setattr(sys, "argv", ["gpu_engine.py", str(output), "--deadline", "0.5"])
    assert script.main() == 0
    assert {record["skipped"] for record in json.loads(output.read_text())["records"]} == {
        "out of time"
    }

    ended = []
    monkeypatch.setattr(script.os, "_exit", ended.append)
    script.end_for_good(script.Report(output, script.QUICK))
    assert ended == [3] and json.loads(output.read_text())["records"][0]["error"] == "it hung"


@pytest.mark.slow
def test_static_transport_is_what_its_peers_find(tmp_path):
    output = tmp_path / "static.json"
    script = [sys.executable, f"{BENCHMARKS}/static.py", "--quick", "--output", str(output)]
    parts = ["--parts", "exact", "assignments", "line"]
    done = subprocess.run([*script, *parts], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = json.loads(output.read_text())["rows"]
    assert len(rows) == 6 and all(len(row["seconds"]) >= 2 for row in rows)
    assert all(error <= 1e-4 for row in rows for error in row["errors"].values())
