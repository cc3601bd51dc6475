"""The few numbers of somebody's own stack, fitted by replaying what was measured on it."""

from llmsim.calibration.procedure import Found, calibrate

__all__ = ["Found", "calibrate"]
