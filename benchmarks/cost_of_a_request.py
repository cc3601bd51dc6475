"""What a simulated request costs in CPU time, as a ratio to a SimPy timeout in the same process.

Usage: python benchmarks/cost_of_a_request.py [FILE.csv ...] [--replicas N] [-tp N] [--repeat N]

Without files: ``conv_r3.3_n10000.csv`` of the reference data beside the checkout.  Start-up, reading the
trace, and writing the results are reported apart from `simulate` itself.  Machines differ and are shared, so
the figure to quote is the ratio: the lowest CPU seconds a request over the repeats, divided by the lowest
CPU seconds a timeout, measured alternately.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

START = time.process_time()  # before the imports below (E402), which are the start-up that is reported

import simpy  # noqa: E402

import llmsim  # noqa: E402
from llmsim.simulation import Simulation  # noqa: E402
from llmsim.workload.request import Request  # noqa: E402

DATA = Path(__file__).parents[2] / "shared" / "data" / "benchmark"


def seconds_per_timeout(count: int = 300_000) -> float:
    """Return the CPU seconds of one SimPy timeout in a single process."""
    environment = simpy.Environment()

    def process() -> object:
        for _ in range(count):
            yield environment.timeout(1.0)

    environment.process(process())
    start = time.process_time()
    environment.run()
    return (time.process_time() - start) / count


class Listed:
    """A workload that has been read already."""

    description = "listed"
    warnings: tuple[str, ...] = ()

    def __init__(self, requests: list[Request]) -> None:
        self.requests = requests
        self.expected_requests = len(requests)

    def start(self):
        return iter(self.requests)

    def on_end(self, record):
        return ()


def measure(path: Path, arguments: argparse.Namespace) -> None:
    scenario = llmsim.scenario(
        model=arguments.model, gpu=arguments.gpu, tensor_parallel_size=arguments.tp, trace=str(path),
        replicas=arguments.replicas,
    )  # fmt: skip
    from llmsim.schema import resolve

    start = time.process_time()
    resolved = resolve(scenario)
    set_up = time.process_time() - start
    start = time.process_time()
    requests = list(Simulation(resolved).workload.start())
    reading = time.process_time() - start
    best = timeout = float("inf")
    for _ in range(arguments.repeat):
        timeout = min(timeout, seconds_per_timeout())
        start = time.process_time()
        simulation = Simulation(resolved)
        built = time.process_time() - start
        simulation.workload = Listed(requests)
        start = time.process_time()
        stopped = simulation.run(None, None)
        run = simulation.result(scenario, stopped)
        best = min(best, time.process_time() - start)
    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        run.save(folder)
    writing = time.process_time() - start
    each = best / len(requests)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    steps = run.counts["steps"]
    print(
        f"{path.name}: {len(requests)} requests, {steps} steps, {arguments.replicas} replicas, TP{arguments.tp}\n"
        f"  simulate: {len(requests) / best:,.0f} requests and {steps / best:,.0f} steps per CPU second, "
        f"{each * 1e6:.1f} us a request = {each / timeout:.0f} SimPy timeouts of {timeout * 1e6:.2f} us\n"
        f"  apart from it: resolve {set_up:.2f} s, prices {built:.2f} s, reading {reading:.2f} s, "
        f"metrics and writing {writing:.2f} s; peak memory {memory:.0f} MiB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--model", default="llama-2-70b")
    parser.add_argument("--gpu", default="a100-sxm")
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("-tp", type=int, default=8)
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    print(f"start-up (imports): {time.process_time() - START:.2f} CPU s")
    for path in arguments.files or [DATA / "conv_r3.3_n10000.csv"]:
        measure(path, arguments)


if __name__ == "__main__":
    main()
