"""What a run was made of, as plain facts that its texts and files repeat."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """The facts that head a result.  None: not known, and then not shown.

    The rooms that know fill them in; the results only repeat them.
    """

    version: str | None = None  # of llmsim
    name: str | None = None  # of the scenario
    scenario_sha256: str | None = None
    engine: str | None = None  # "vllm@0.33"
    scheduler: str | None = None  # when it is not the engine's own
    model: str | None = None
    devices: str | None = None  # "4x H100-SXM-80GB"
    plan: str | None = None  # "TP4", "TP4 PP2"
    formats: str | None = None  # "bf16", "fp8, cache fp8"
    replicas: int = 1
    blocks: int | None = None  # of the cache, in each replica
    block_tokens: int | None = None
    blocks_origin: str | None = None  # "estimated: 0.92 x 80 GB - weights 15.0 - activations 4.6"
    performance: str | None = None  # name of the price model
    calibrated: bool = False
    expected_error: str | None = None  # "+-10 % (fitted)"
    workload: str | None = None  # "open loop, Poisson 8.00 req/s, 1000 requests"
    request_rate: float | None = None  # requests per second; inf: all at once
    burstiness: float | None = None
    max_concurrency: int | None = None

    @property
    def prices(self) -> str:
        """Where the prices come from and the error that these have shown, in one line; empty when not known."""
        return "; ".join(part for part in (self.performance, self.expected_error) if part)

    @property
    def has_request_rate(self) -> bool:
        """Whether there is a finite rate to speak of."""
        return self.request_rate is not None and math.isfinite(self.request_rate)

    def lines(self, *, seed: int) -> list[str]:
        """Return the lines that head a result on the terminal."""
        first = [f"llmsim {self.version}" if self.version else "llmsim"]
        if self.engine:
            first.append(f"engine preset {self.engine}")
        if self.scheduler:
            first.append(f"scheduler {self.scheduler}")
        if self.performance:
            first.append(f"prices: {self.performance}" + ("" if self.calibrated else ", uncalibrated"))
        replicas = f"{self.replicas} replicas on" if self.replicas > 1 else None
        second = [part for part in (self.model, replicas, self.devices, self.plan, self.formats) if part]
        lines = [" · ".join(first), "  " + "  ".join([*second, f"seed {seed}"])]
        if self.expected_error:
            lines.append(f"  expect {self.expected_error}")
        lines += [f"  {part}" for part in (self._cache(),) if part]
        return [*lines, f"  workload: {self.workload}"] if self.workload else lines

    def _cache(self) -> str | None:
        if self.blocks is None:
            return None
        size = f" x {self.block_tokens} tokens" if self.block_tokens else ""
        origin = f" ({self.blocks_origin})" if self.blocks_origin else ""
        return f"KV {self.blocks:,} blocks{size}{origin}"
