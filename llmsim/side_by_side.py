"""Jobs side by side, in joblib's workers: processes of this machine, or those of Dask or Ray by the backend's name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from llmsim.errors import ScenarioError

_Result = TypeVar("_Result")

# Backends that give all results at once are fed so many jobs at a time: what is done is kept when a run is interrupted.
_AT_ONCE = 256


def side_by_side(
    function: Callable[..., _Result], jobs: Sequence[tuple[Any, ...]], *, n_jobs: int, backend: str | None, what: str
) -> Iterator[_Result]:
    """Return what ``function`` makes of the arguments of each job, in the order of the jobs.

    Args:
        function: of a module, so that another process finds it.
        jobs: the arguments of each call, plain data.
        n_jobs: workers; -1: one for each core, or all of the cluster.
        backend: joblib's backend by name; None: ``loky``.  ``dask`` takes the client that is there, or makes one for
            the scheduler of Dask's configuration (``DASK_SCHEDULER_ADDRESS``), else a local cluster; ``ray`` takes the
            cluster that was joined by ``ray.init``, or joins or starts one.
        what: who asks, for messages.

    Raises:
        ScenarioError: there is no such backend, or its package is not there, or the number of workers is wrong.
    """
    from joblib import delayed

    _make_ready(backend, what)
    calls = [delayed(function)(*job) for job in jobs]
    try:
        # joblib looks at its arguments here, before the first job runs.
        came: Iterator[_Result] = _parallel(n_jobs, backend, return_as="generator")(calls)
    except ValueError as error:
        if "return_as" not in str(error):
            raise ScenarioError(f"{what}: {error} (got n_jobs={n_jobs}, backend={backend!r})") from None
        return _batch_by_batch(calls, n_jobs, backend)
    return came


def _batch_by_batch(calls: Sequence[Any], n_jobs: int, backend: str | None) -> Iterator[Any]:
    for start in range(0, len(calls), _AT_ONCE):
        yield from _parallel(n_jobs, backend)(calls[start : start + _AT_ONCE])


def _parallel(n_jobs: int, backend: str | None, **options: Any) -> Any:
    """Return joblib's `Parallel`, which knows some backends by the context that it is made in only."""
    from joblib import Parallel, parallel_config

    if backend is None:
        return Parallel(n_jobs=n_jobs, **options)
    with parallel_config(backend=backend, n_jobs=n_jobs):
        return Parallel(**options)


def _make_ready(backend: str | None, what: str) -> None:
    """Let joblib know the backends of other packages, and see that they have workers."""
    try:
        if backend == "ray":
            from ray.util.joblib import register_ray

            register_ray()
        elif backend == "dask":
            import distributed

            try:
                distributed.get_client()
            except ValueError:
                distributed.Client()
    except ImportError as error:
        raise ScenarioError(
            f"{what}: backend {backend!r}: {error}\nhint: pip install 'llmsim[distributed]'; or leave the backend out"
        ) from None
