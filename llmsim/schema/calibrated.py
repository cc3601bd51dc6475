"""The calibration that a scenario names: read, held against the scenario, and said to hold or not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from llmsim.performance.calibration import Calibration, Regime, read_calibration

if TYPE_CHECKING:
    from llmsim.hardware import Cluster
    from llmsim.schema.document import Scenario
    from llmsim.schema.findings import Findings
    from llmsim.schema.resolution import Resolved

_KEY = ("performance", "calibration")


def named(scenario: Scenario, cluster: Cluster | None, findings: Findings) -> Calibration | None:
    """Return the calibration of a scenario, or None; one of another device is an error unless it is forced."""
    section = scenario.performance
    if section.calibration is None:
        return None
    calibration = findings.attempt(_KEY, read_calibration, section.calibration)
    if calibration is None or cluster is None:
        return None
    device, known = cluster.nodes[0].device.name, calibration.regime.device
    if device != known and not section.force_calibration:
        findings.add(
            _KEY,
            f"{Path(section.calibration).name} was made on {known}, which says nothing of {device}\n"
            "hint: calibrate on this device; or performance.force_calibration: true, at your own risk",
        )
    return calibration


def regime_of(resolved: Resolved) -> Regime:
    """Return the facts of a scenario that a calibration holds for; the ranges come from runs."""
    plan, options = resolved.plan, resolved.options
    return Regime(
        device=resolved.device.name,
        model=resolved.model.name,
        plan=f"TP{plan.tensor} PP{plan.pipeline}",
        engine=resolved.preset,
        stack=resolved.performance.stack,
        weight_format=options.weight_format,
        cache_format=options.cache_format,
    )


def warned(resolved: Resolved) -> Resolved:
    """Return ``resolved`` with a warning for all in which it leaves the regime of its calibration."""
    calibration = resolved.performance.calibration
    if calibration is None:
        return resolved
    regime = regime_of(resolved)
    told = calibration.regime.departures(regime)
    if regime.device != calibration.regime.device:
        told.insert(0, f"device {regime.device}, calibrated on {calibration.regime.device} (forced)")
    warnings = tuple(f"outside of the calibration's regime: {one}: its error is not known here" for one in told)
    return replace(resolved, warnings=(*resolved.warnings, *warnings))
