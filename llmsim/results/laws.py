"""Laws that every run obeys, whatever was simulated: to check a simulation with, and to test it by."""

from dataclasses import dataclass

from llmsim.results import occupancy
from llmsim.results.metrics import pooled, timings
from llmsim.results.outcome import Outcome


@dataclass(frozen=True, slots=True)
class LittlesLaw:
    """Both sides of Little's law, L = lambda W, over the span of the run.

    Attributes:
        mean_in_system: requests in the system, by the integral of what the engines logged at each batch
            (running and waiting), averaged over time.
        arrival_rate: requests per second, by the records.
        mean_sojourn_s: seconds from arrival to end, by the records.
    """

    mean_in_system: float
    arrival_rate: float
    mean_sojourn_s: float

    @property
    def expected_in_system(self) -> float:
        """The right-hand side."""
        return self.arrival_rate * self.mean_sojourn_s


def littles_law(outcome: Outcome) -> LittlesLaw:
    """Return both sides of Little's law for a run whose requests all finished.

    The sides come from different books, the engines' logs and the records, so they agree only when both are
    right.  They agree up to the sampling of the logs: a request that arrives during a batch is seen from the
    next one on, so the left side is low by less than a batch's length times the arrival rate.

    Raises:
        ValueError: nothing finished, or no batch was logged.
    """
    measured, ends = timings(outcome.records), occupancy.span(outcome.steps)
    if len(measured.arrival_s) == 0 or ends is None:
        raise ValueError("Little's law: nothing finished")
    seconds = float(measured.finished_s.max() - measured.arrival_s.min())
    present = [(log, log.columns()["running"] + log.columns()["waiting"]) for log in outcome.steps]
    return LittlesLaw(
        mean_in_system=sum(occupancy.time_average(log, values, seconds) for log, values in present),
        arrival_rate=len(measured.arrival_s) / seconds,
        mean_sojourn_s=float(measured.e2el.mean()),
    )


@dataclass(frozen=True, slots=True)
class GapBalance:
    """The gaps of the step logs against the records: both count the same tokens and the same seconds."""

    logged_tokens: int
    recorded_tokens: int
    logged_s: float
    recorded_s: float


def gap_balance(outcome: Outcome) -> GapBalance:
    """Return the tokens after the first and the seconds that they took, by the logs and by the records.

    Over all requests, the gaps add up to the time from first to last token.  Both books agree for a run without
    cancelled or failed requests.
    """
    measured = timings(outcome.records)
    values, weights = pooled([log.gaps() for log in outcome.steps])
    several = measured.output_tokens > 1
    return GapBalance(
        logged_tokens=int(weights.sum()),
        recorded_tokens=int((measured.output_tokens[several] - 1).sum()),
        logged_s=float((values * weights).sum()),
        recorded_s=float((measured.finished_s - measured.first_token_s)[several].sum()),
    )
