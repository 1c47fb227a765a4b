"""First calls, each by a process of its own."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
from accelerator import Record

from .problems import (
    arrays_of,
    batch_of,
    divergence_function,
    gradient_function,
    QUICK,
    Scale,
    Shape,
    solve_function,
)


def first_calls_of(scale: Scale) -> dict[str, tuple[Callable[..., Any], Callable[[], Any]]]:
    """By name: a function, and what makes its arguments."""
    few, many, high = (
        Shape(scale.small, 2, 0.01),
        Shape(scale.medium, 3, 0.01),
        Shape(scale.medium, 64, 0.05),
    )
    batched = f"{scale.batch[0]} problems of {scale.batch[1]} x {scale.batch[1]}"
    return {
        f"solve, {few.name}": (solve_function(None), lambda: arrays_of(few)),
        f"solve, {high.name}": (solve_function(None), lambda: arrays_of(high)),
        f"value and gradient, {many.name}": (gradient_function(None), lambda: arrays_of(many)),
        f"divergence and gradient, {many.name}": (
            divergence_function(None),
            lambda: arrays_of(many),
        ),
        f"divergence and gradient, {batched}": (
            jax.vmap(divergence_function(None)),
            lambda: batch_of(*scale.batch),
        ),
    }


def first_calls(scale: Scale) -> Iterator[Record]:
    """What somebody waits for before the first number, after the imports: the default engine."""
    for name in first_calls_of(scale):
        command = [sys.executable, sys.argv[0], "-", "--first-call", name]
        command += ["--quick"] if scale is QUICK else []
        finished = subprocess.run(command, capture_output=True, text=True, timeout=60)
        record = {"name": f"first call: {name}"}
        if finished.returncode:
            yield record | {"passed": False, "error": finished.stderr[-1000:]}
        else:
            yield record | json.loads(finished.stdout.splitlines()[-1])


def first_call(name: str, scale: Scale) -> None:
    """Prints how long a first call takes and how long a second one."""
    function, make = first_calls_of(scale)[name]
    arguments = jax.block_until_ready(jax.device_put(make()))
    function = jax.jit(function)
    times = []
    for _ in range(2):
        begin = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        times.append(time.perf_counter() - begin)
    print(json.dumps({"first_s": times[0], "second_s": times[1]}))
