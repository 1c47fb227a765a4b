"""The contestants: each library at each of its options, from points to potentials.

A contestant takes the arrays of a problem in its library's own format, and a setting: a tolerance
in its library's own sense, or a number of iterations. It returns potentials in its library's
convention, which are read, outside of the time, as those of

    P_ij = a_i b_j exp((f_i + g_j - C_ij) / epsilon).

Everything between points and potentials is timed, the matrix of costs too. The libraries are
imported where they are used, so that one that is absent disturbs no other.
"""

import functools
import importlib
import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .problems import Problem, squared_distances


class Answer(NamedTuple):
    """Potentials in the convention above, in float64, and how many iterations they took."""

    f: np.ndarray
    g: np.ndarray
    iterations: int | None


Run = Callable[[float], Any]  # a setting to whatever the library returns: timed
Read = Callable[[Any], Answer]  # not timed
Make = Callable[[Problem], tuple[Run, Read]]


class Contestant(NamedTuple):
    """A library at one of its options."""

    family: str
    option: str
    make: Make
    counts: bool = False  # the setting is a number of iterations, not a tolerance
    compiles_counts: bool = False  # and each number is a program of its own
    batched: bool = False  # can take a batch of problems
    only: str = ""  # "batch" or "float32" if for such rows only

    @property
    def name(self) -> str:
        return f"{self.family}: {self.option}"


# What must be importable for each family, by name and by module.
PACKAGES = {
    "otjax": ("otjax", "otjax"),
    "OTT-JAX": ("ott-jax", "ott"),
    "POT": ("POT", "ot"),
    "GeomLoss": ("geomloss", "geomloss"),
    "mdot-tnt": ("mdot-tnt", "mdot_tnt"),
    "regot": ("regot", "regot"),
}
JAX_FAMILIES = ("otjax", "OTT-JAX")


# otjax.


@functools.cache
def otjax_function(option: str) -> Callable[..., Any]:
    """A jitted solve of arrays, of which every number is traced."""
    import jax

    import otjax

    def solve(x, y, a, b, epsilon, tolerance):
        problem = otjax.EntropicProblem(otjax.PointCloud(x, y), a, b, epsilon=epsilon)
        if option == "default":
            solution = otjax.solve(problem, tolerance=tolerance, throw=False)
        else:
            solver = getattr(otjax, option)(tolerance=tolerance)
            solution = otjax.solve(problem, solver, throw=False)
        return *solution.potentials, solution.value, solution.stats.num_steps

    batch = jax.vmap(solve, in_axes=(0, 0, 0, 0, 0, None))
    return jax.jit(lambda x, *rest: (solve if x.ndim == 2 else batch)(x, *rest))


def jax_runner(function: Callable[..., Any], problem: Problem, weighted: bool) -> tuple[Run, Read]:
    """Runs a jitted function of a problem's arrays and a setting.

    `weighted`: the potentials include the masses, P_ij = exp((f_i + g_j - C_ij) / epsilon).
    """
    import jax
    import jax.numpy as jnp

    dtype = problem.x.dtype
    arrays = [jnp.asarray(array, dtype) for array in problem]

    def run(setting: float) -> Any:
        return jax.block_until_ready(function(*arrays, jnp.asarray(setting, dtype)))

    def read(output: Any) -> Answer:
        f, g = (np.asarray(potential, np.float64) for potential in output[:2])
        if weighted:
            epsilon = problem.epsilon[..., None]
            f, g = f - epsilon * np.log(problem.a), g - epsilon * np.log(problem.b)
        return Answer(f, g, int(np.max(output[3])))

    return run, read


def otjax_contestant(option: str) -> Contestant:
    def make(problem: Problem) -> tuple[Run, Read]:
        return jax_runner(otjax_function(option), problem, weighted=False)

    return Contestant("otjax", option, make, batched=True)


# OTT-JAX.


OTT_OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "momentum 1.5": {"momentum": 1.5},
    "Anderson 2": {"anderson": 2},
    "Anderson 5": {"anderson": 5},
    "kernel": {"lse_mode": False},
    "kernel, momentum 1.5": {"lse_mode": False, "momentum": 1.5},
}


@functools.cache
def ott_function(option: str, count: int | None = None) -> Callable[..., Any]:
    """A jitted solve; `count` is the number of iterations, if fixed."""
    import jax
    import jax.numpy as jnp

    geometry = importlib.import_module("ott.geometry.geometry")
    pointcloud = importlib.import_module("ott.geometry.pointcloud")
    linear_problem = importlib.import_module("ott.problems.linear.linear_problem")
    acceleration = importlib.import_module("ott.solvers.linear.acceleration")
    sinkhorn = importlib.import_module("ott.solvers.linear.sinkhorn")

    options = dict(OTT_OPTIONS[option])
    if "momentum" in options:
        options["momentum"] = acceleration.Momentum(value=options["momentum"])
    if "anderson" in options:
        options["anderson"] = acceleration.AndersonAcceleration(memory=options["anderson"])
    limits = {"max_iterations": 200_000}
    if count is not None:
        limits = {"min_iterations": count, "max_iterations": count}

    def solve(x, y, a, b, epsilon, threshold):
        # The matrix is made once; in kernel mode it would else be made in each iteration.
        cost = pointcloud.PointCloud(x, y).cost_matrix
        if options.get("lse_mode", True):
            geom = geometry.Geometry(cost_matrix=cost, epsilon=epsilon)
        else:
            geom = geometry.Geometry(kernel_matrix=jnp.exp(-cost / epsilon), epsilon=epsilon)
        solver = sinkhorn.Sinkhorn(threshold=threshold, **limits, **options)
        output = solver(linear_problem.LinearProblem(geom, a, b))
        return output.f, output.g, output.reg_ot_cost, output.n_iters

    batch = jax.vmap(solve, in_axes=(0, 0, 0, 0, 0, None))
    return jax.jit(lambda x, *rest: (solve if x.ndim == 2 else batch)(x, *rest))


def ott_contestant(option: str) -> Contestant:
    def make(problem: Problem) -> tuple[Run, Read]:
        return jax_runner(ott_function(option), problem, weighted=True)

    return Contestant("OTT-JAX", option, make, batched=True)


def ott_fixed(option: str) -> Contestant:
    """As many iterations for each member of a batch: what its authors advise under vmap."""

    def make(problem: Problem) -> tuple[Run, Read]:
        runs: dict[int, Run] = {}

        def run(count: float) -> Any:
            if count not in runs:
                solve, _ = jax_runner(ott_function(option, int(count)), problem, weighted=True)
                runs[int(count)] = solve
            return runs[int(count)](0.0)

        _, read = jax_runner(ott_function(option), problem, weighted=True)
        return run, read

    name = f"{option}, fixed count"
    return Contestant("OTT-JAX", name, make, True, compiles_counts=True, batched=True, only="batch")


# POT.


def pot_contestant(option: str, dtype: str | None = None) -> Contestant:
    """NumPy arrays; `dtype` is that of the problem unless given."""

    def make(problem: Problem) -> tuple[Run, Read]:
        ot = importlib.import_module("ot")
        epsilon = float(problem.epsilon)
        kind = problem.x.dtype if dtype is None else np.dtype(dtype)
        x, y, a, b = (array.astype(kind) for array in problem[:4])
        # The threshold is the L2 error of one marginal.
        scale = math.sqrt(len(b))

        def run(tolerance: float) -> Any:
            return ot.sinkhorn(
                a,
                b,
                ot.dist(x, y),
                epsilon,
                method=option,
                stopThr=tolerance / scale,
                numItermax=10_000_000,
                log=True,
                warn=False,
            )

        def read(output: Any) -> Answer:
            log = output[1]
            if "log_u" in log:
                log_u, log_v = log["log_u"], log["log_v"]
            elif "logu" in log:
                log_u, log_v = log["logu"], log["logv"]
            else:
                log_u, log_v = (np.log(np.asarray(log[key], np.float64)) for key in "uv")
            f = epsilon * (np.asarray(log_u, np.float64) - np.log(problem.a))
            g = epsilon * (np.asarray(log_v, np.float64) - np.log(problem.b))
            return Answer(f, g, int(log.get("niter", log.get("n_iter"))))

        return run, read

    name = option.removeprefix("sinkhorn_")
    if dtype is None:
        return Contestant("POT", name, make)
    return Contestant("POT", f"{name}, {dtype}", make, only="float32")


# GeomLoss.


def torch_arrays(problem: Problem, dtype: str | None = None) -> list[Any]:
    torch = importlib.import_module("torch")
    kind = getattr(torch, str(problem.x.dtype) if dtype is None else dtype)
    return [torch.asarray(array).to(kind) for array in problem[:4]]


def torch_costs(x: Any, y: Any) -> Any:
    """Squared distances by one matrix product, centred first."""
    torch = importlib.import_module("torch")
    centre = y.mean(0)
    x, y = x - centre, y - centre
    squares = (x**2).sum(1)[:, None] + (y**2).sum(1)[None, :]
    return torch.addmm(squares, x, y.T, alpha=-2).clamp_(min=0)


def geomloss_annealed(problem: Problem) -> tuple[Run, Read]:
    """Its public solver: one symmetric step for each epsilon of a geometric sequence."""
    ot = importlib.import_module("geomloss.ot")
    x, y, a, b = torch_arrays(problem)

    def run(count: float) -> Any:
        solution = ot.solve(
            torch_costs(x, y), reg=float(problem.epsilon), a=a, b=b, max_iter=int(count)
        )
        return solution.potential_a, solution.potential_b, int(count)

    return run, read_geomloss


def geomloss_settled(problem: Problem) -> tuple[Run, Read]:
    """The loop within: epsilon falls by 0.7 a step and then stays, which its solver has not."""
    matrix = importlib.import_module("geomloss.ot._implementations.matrix")
    x, y, a, b = torch_arrays(problem)

    def run(count: float) -> Any:
        cost = torch_costs(x, y)[None]
        descent = matrix.annealing_parameters(
            maxmin_cost=cost.amax() - cost.amin(),
            eps=float(problem.epsilon),
            scaling=0.7,
            n_iter=int(count),
        )
        potentials = matrix.sinkhorn_loop(
            softmin=matrix.softmin_dense,
            log_a_list=[a[None].log()],
            log_b_list=[b[None].log()],
            C_list=[matrix.CostMatrices(xy=cost, yx=cost.transpose(1, 2).contiguous())],
            descent=descent,
            debias=False,
        )
        return potentials.f_ba[0], potentials.g_ab[0], int(count)

    return run, read_geomloss


def read_geomloss(output: Any) -> Answer:
    f, g, count = output
    return Answer(f.double().numpy(), g.double().numpy(), count)


# mdot-tnt.


def mdot_contestant(dtype: str | None = None) -> Contestant:
    def make(problem: Problem) -> tuple[Run, Read]:
        solver = importlib.import_module("mdot_tnt.mdot")
        x, y, a, b = torch_arrays(problem, dtype)
        epsilon = float(problem.epsilon)
        entropy = min(-float(a @ a.log()), -float(b @ b.log()))

        def run(tolerance: float) -> Any:
            cost = torch_costs(x, y)
            largest = float(cost.max())
            gamma = largest / epsilon
            # It stops at an error of entropy / gamma^p / 2.
            power = math.log(max(entropy / (2 * tolerance), 1.01)) / math.log(gamma)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                u, v, reached, count, _ = solver.mdot(a, b, cost.div_(largest), gamma, p=power)
            if abs(reached - gamma) > 1e-3 * gamma:
                raise RuntimeError(f"stopped at {gamma / reached:.2g} times the epsilon asked for")
            return u, v, count

        def read(output: Any) -> Answer:
            u, v, count = output
            f = epsilon * (u.double().numpy() - np.log(problem.a))
            g = epsilon * (v.double().numpy() - np.log(problem.b))
            return Answer(f, g, int(count))

        return run, read

    if dtype is None:
        return Contestant("mdot-tnt", "truncated Newton", make)
    return Contestant("mdot-tnt", f"truncated Newton, {dtype}", make, only="float32")


# regot, which knows float64 only.


def regot_contestant(option: str) -> Contestant:
    def make(problem: Problem) -> tuple[Run, Read]:
        regot = importlib.import_module("regot")
        solve = getattr(regot, f"sinkhorn_{option}")
        x, y, a, b = problem[:4]
        epsilon = float(problem.epsilon)

        def run(tolerance: float) -> Any:
            cost = squared_distances(y, x).T  # in the order of columns that it wants
            # The tolerance is the L2 error of both marginals.
            tolerance = tolerance / math.sqrt(len(a) + len(b))
            return solve(cost, a, b, epsilon, tol=tolerance, max_iter=1_000_000)

        def read(output: Any) -> Answer:
            dual = np.asarray(output.dual)
            u, v = dual[: len(a)], np.append(dual[len(a) :], 0)
            f, g = u - epsilon * np.log(a), v - epsilon * np.log(b)
            return Answer(f, g, int(output.niter))

        return run, read

    return Contestant("regot", option, make)


ALL = [
    *(otjax_contestant(option) for option in ("default", "Sinkhorn", "DualNewton", "Adaptive")),
    *(ott_contestant(option) for option in OTT_OPTIONS),
    *(ott_fixed(option) for option in ("default", "kernel")),
    *(pot_contestant(option) for option in ("sinkhorn", "sinkhorn_log", "sinkhorn_stabilized")),
    pot_contestant("sinkhorn", "float64"),
    Contestant("GeomLoss", "annealing", geomloss_annealed, counts=True),
    Contestant("GeomLoss", "annealing, then constant", geomloss_settled, counts=True),
    mdot_contestant(),
    mdot_contestant("float64"),
    *(regot_contestant(option) for option in ("splr", "ssns", "lbfgs_dual", "bcd")),
]
REGISTRY = {contestant.name: contestant for contestant in ALL}


def enters(contestant: Contestant, batch: bool, dtype: str) -> bool:
    """Whether a contestant takes part in a row."""
    if batch:
        return contestant.batched
    return contestant.only in ("", dtype)
