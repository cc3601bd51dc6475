"""From the workload section of a scenario to a workload."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from llmsim.catalog import folder
from llmsim.errors import CatalogError, ScenarioError, TraceError
from llmsim.workload.arrivals import AllAtOnce, RampedRenewal
from llmsim.workload.build_arrivals import build_arrivals
from llmsim.workload.build_lengths import build_lengths, parse_distribution
from llmsim.workload.build_sessions import build_sessions
from llmsim.workload.closed_loop import Capped, ClosedLoop
from llmsim.workload.distributions import Distribution, Fixed
from llmsim.workload.lengths import Lengths
from llmsim.workload.open_loop import OpenLoop
from llmsim.workload.order import REORDER_ROWS
from llmsim.workload.parameters import Parameters
from llmsim.workload.presets import filled
from llmsim.workload.protocol import Workload
from llmsim.workload.readers.detect import format_named
from llmsim.workload.readers.rows import ReadOptions
from llmsim.workload.readers.synonyms import MEANINGS
from llmsim.workload.replay import Trace, TraceLengths, TraceOptions, TraceReplay, expected_rows
from llmsim.workload.resample import BLOCKS_AROUND, Resampling
from llmsim.workload.servegen import ServeGen, scaled_to
from llmsim.workload.servegen_data import load_clients
from llmsim.workload.session_replay import SessionReplay
from llmsim.workload.spec import DEFAULT_NUM_PROMPTS, WorkloadSpec
from llmsim.workload.split import Split, read_cut
from llmsim.workload.tenants import Tenant, Tenanted, read_tenants
from llmsim.workload.vllm_bench import PrefixRepetition, VllmArrivals, VllmRandomLengths
from llmsim.workload.window import ContextWindow

_ANY_LENGTH = 2**62  # tokens
_FILE_DATASETS = ("sharegpt", "burstgpt", "custom", "timed_trace", "trace")


def build(spec: WorkloadSpec, *, seed: int, max_model_len: int, base: Path | None = None) -> Workload:
    """Return the workload that ``spec`` describes.

    ``base`` is the folder that relative paths of traces start from; None: the current one.

    Raises:
        ScenarioError: an option is wrong; the message names it.
        CatalogError: a preset or a table is not known.
        TraceError: the trace does not exist or is of no known format.
    """
    spec, tenants = _without_tenants(filled(spec))
    cut = None if spec.split_long is None else read_cut(spec.split_long, max_model_len)
    # What is cut has to fit in pieces only; the engine refuses a piece that does not.
    workload = _build(_with_file_dataset(spec), seed, max_model_len if cut is None else _ANY_LENGTH, base)
    workload = workload if tenants is None else Tenanted(workload, tenants, seed)
    return workload if cut is None else Split(workload, cut)


def _build(spec: WorkloadSpec, seed: int, max_model_len: int, base: Path | None) -> Workload:
    """Return the workload of a spec that names neither a preset nor tenants."""
    if spec.num_prompts is not None and spec.num_prompts < 1:
        raise ScenarioError(f"workload.num_prompts: must be at least 1 (got {spec.num_prompts})")
    window = ContextWindow(max_model_len, spec.on_too_long)
    if spec.trace is not None:
        if spec.dataset is not None:
            raise ScenarioError("workload.dataset: the trace gives the lengths\nhint: remove one of dataset and trace")
        if spec.sessions is not None:
            raise ScenarioError("workload.sessions: the trace gives the sessions\nhint: trace: {sessions: closed}")
        return _from_trace(spec, seed, window, base)
    if spec.sessions is not None:
        return build_sessions(spec, seed, window)
    count = spec.num_prompts or DEFAULT_NUM_PROMPTS
    return _generated(spec, build_lengths(spec.dataset), count, seed, window)


def _generated(spec: WorkloadSpec, lengths: Lengths, count: int | None, seed: int, window: ContextWindow) -> Workload:
    """Return closed loop, capped or open loop around ``lengths``."""
    if spec.closed_loop is not None and spec.arrival is None:
        return _closed_loop(spec.closed_loop, lengths, count, seed, window)
    arrivals = build_arrivals(spec.arrival)
    needs_count = (RampedRenewal, VllmArrivals, AllAtOnce)
    if count is None and isinstance(arrivals, needs_count):
        if not isinstance(arrivals, AllAtOnce):
            raise ScenarioError("workload.num_prompts: these arrivals need the number of requests")
    elif isinstance(arrivals, VllmArrivals) and not 0 <= seed < 2**32:
        raise ScenarioError(f"seed: NumPy's legacy generator, as vLLM uses it, takes 0 to 2**32 - 1 (got {seed})")
    if isinstance(lengths, PrefixRepetition):
        if count is not None and count < lengths.num_prefixes:
            raise ScenarioError(f"workload.num_prompts: must be at least num_prefixes, {lengths.num_prefixes}")
    elif isinstance(lengths, VllmRandomLengths) and seed < 0:
        raise ScenarioError(f"seed: must not be negative (got {seed})")
    workload: Workload = OpenLoop(arrivals, lengths, count, seed, window)
    cap = Parameters(spec.arrival, "workload.arrival").optional_whole("max_concurrency", least=1)
    if spec.closed_loop is not None:
        options = Parameters(spec.closed_loop, "workload.closed_loop")
        cap = options.whole("concurrency", least=1)
        options.finish()  # a think time would mean nothing here
    return workload if cap is None else Capped(workload, cap)


def _closed_loop(
    values: dict[str, object], lengths: Lengths, count: int | None, seed: int, window: ContextWindow
) -> Workload:
    options = Parameters(values, "workload.closed_loop")
    concurrency = options.whole("concurrency", least=1)
    ramp_s = options.number("ramp_s", 0.0, least=0.0)
    think, label = _think_time(options)
    options.finish()
    return ClosedLoop(lengths, concurrency, count, seed, window, think, label, ramp_s)


def _think_time(options: Parameters) -> tuple[Distribution | None, str]:
    value = options.raw("think_time_s")
    if isinstance(value, dict):
        below = options.below("think_time_s")
        distribution = parse_distribution(below, "exponential")
        below.finish()
        return distribution, ", random think time"
    fixed = options.number("think_time_s", 0.0, least=0.0)
    return (Fixed(fixed), f", think time {fixed:g} s") if fixed else (None, "")


def _without_tenants(spec: WorkloadSpec) -> tuple[WorkloadSpec, tuple[Tenant, ...] | None]:
    """Return ``spec`` without the tenants of its dataset, and those."""
    dataset = dict(spec.dataset or {})
    if "tenants" not in dataset:
        return spec, None
    tenants = read_tenants(dataset.pop("tenants"), "workload.dataset.tenants")
    return replace(spec, dataset=dataset or None), tenants


def _with_file_dataset(spec: WorkloadSpec) -> WorkloadSpec:
    """Return ``spec`` with vLLM's datasets that read a file turned into a trace."""
    dataset = spec.dataset
    if dataset is None or dataset.get("name") not in _FILE_DATASETS:
        return spec
    options = dict(dataset)
    name = options.pop("name")
    options["path"] = options.get("path", options.pop("dataset_path", None))
    if name == "sharegpt":
        options.setdefault("prune", True)
    if name == "burstgpt":
        options.setdefault("only", "GPT-4")
    arrival = spec.arrival
    if arrival is None and spec.closed_loop is None and name not in ("timed_trace", "trace"):
        arrival = {"kind": "all_at_once"}  # vLLM does not use the times of these files
    return replace(spec, dataset=None, trace=options, arrival=arrival)


def _from_trace(spec: WorkloadSpec, seed: int, window: ContextWindow, base: Path | None) -> Workload:
    options = Parameters(spec.trace, "workload.trace")
    path = trace_path(options.text("path"), base)
    columns = _columns(options)
    found = format_named(options.text("format", "auto"), path, columns)
    if found.read is None:
        return _servegen(spec, options, path, seed, window)
    chosen = _trace_options(options, spec.num_prompts)
    chosen.read.columns = columns
    trace = Trace(path, found, chosen, seed)
    cap = options.optional_whole("max_concurrency", least=1)
    closed = options.text("sessions", "open", choices=("open", "closed")) == "closed"
    served = options.number("served_ms_per_token", 0.0, least=0.0)
    options.finish()
    if closed:
        return _closed_sessions(spec, options, trace, served, window)
    if served:
        raise options.error("served_ms_per_token", "means nothing without sessions: closed")
    if found.has_times and spec.arrival is None and spec.closed_loop is None:
        replay = TraceReplay(trace, window, expected_rows(trace))
        return replay if cap is None else Capped(replay, cap)
    for name in ("speedup", "jitter_s", "resample", "origin"):
        if name in options:
            raise options.error(name, "means nothing: the times of the trace are not used")
    return _generated(spec, TraceLengths(trace), spec.num_prompts, seed, window)


def _resampling(options: Parameters) -> Resampling | None:
    """Return how arrivals are resampled: ``resample: 60s``, or ``{block: 60s, within: 10min}``; None: not at all."""
    value = options.raw("resample")
    if value is None:
        return None
    if not isinstance(value, Mapping):
        block_s = options.seconds("resample")
        return Resampling(block_s, BLOCKS_AROUND * block_s)
    below = options.below("resample")
    block_s = below.seconds("block")
    within_s = below.seconds("within", BLOCKS_AROUND * block_s)
    below.finish()
    if within_s < block_s:
        raise below.error("within", f"must be at least a block, {block_s:g} s, or each is drawn from itself alone")
    return Resampling(block_s, within_s)


def _closed_sessions(
    spec: WorkloadSpec, options: Parameters, trace: Trace, served_ms: float, window: ContextWindow
) -> Workload:
    if not trace.format.has_times:
        raise options.error("sessions", f"need times, and {trace.format.title} has none")
    for name in ("arrival", "closed_loop"):
        if getattr(spec, name) is not None:
            raise ScenarioError(f"workload.{name}: means nothing beside trace.sessions: closed")
    if "max_concurrency" in options:
        raise options.error("max_concurrency", "does not work with sessions: closed")
    if "resample" in options:
        raise options.error("resample", "would tear sessions: closed apart, whose turns lie in several blocks")
    return SessionReplay(trace, window, served_ms)


def trace_path(name: str, base: Path | None = None) -> Path:
    """Return the file or folder ``name``, from ``base`` if it is relative; or the catalogue's sample of that name.

    Raises:
        TraceError: there is no such file.
    """
    path = Path(name).expanduser()
    path = path if path.is_absolute() or base is None else base / path
    if path.exists():
        return path
    if Path(name).name == name:
        try:
            samples = sorted(folder("workloads/traces").glob("*.csv"))
        except CatalogError:
            samples = []
        for sample in samples:
            if name in (sample.name, sample.stem):
                return sample
    near = path.parent if path.parent.is_dir() else None
    hint = "" if near is None else f"\nhint: looked in {near.resolve()}"
    raise TraceError(f"trace: no such file {name!r}{hint}")


def _columns(options: Parameters) -> Mapping[str, str] | None:
    """Return which column of a trace means what, where that was told."""
    told = options.raw("columns") if "columns" in options else None
    if told is None:
        return None
    if not isinstance(told, Mapping) or not all(what in MEANINGS and isinstance(told[what], str) for what in told):
        raise options.error("columns", f"must name columns for {', '.join(MEANINGS)}, such as {{prompt: tokens_in}}")
    return told


def _trace_options(options: Parameters, num_prompts: int | None) -> TraceOptions:
    limit = options.optional_whole("limit", least=1)
    limits = [number for number in (limit, num_prompts) if number is not None]
    return TraceOptions(
        speedup=options.number("speedup", 1.0, above=0.0),
        jitter_s=options.optional_number("jitter_s", least=0.0),
        limit=min(limits) if limits else None,
        start_s=options.optional_number("start_s", least=0.0),
        stop_s=options.optional_number("stop_s", above=0.0),
        resample=_resampling(options),
        thin=options.optional_number("thin", above=0.0, most=1.0),
        only=options.text("only") if "only" in options else None,
        origin=options.text("origin", "first", choices=("first", "file")),
        zero_output=options.text("zero_output", choices=("drop", "one")) if "zero_output" in options else None,
        reorder_rows=options.whole("reorder_rows", REORDER_ROWS, least=1),
        read=ReadOptions(
            time_unit=options.text("time_unit", choices=("s", "ms", "us", "ns")) if "time_unit" in options else None,
            block_tokens=options.optional_whole("block_tokens", least=1),
            characters_per_token=options.number("characters_per_token", 4.0, above=0.0),
            output_len=options.optional_whole("output_len", least=1),
            turns=options.text("turns", "first", choices=("first", "all")),
            prune=options.flag("prune", False),
        ),
    )


def _servegen(spec: WorkloadSpec, options: Parameters, path: Path, seed: int, window: ContextWindow) -> Workload:
    start_s = options.number("start_s", 0.0, least=0.0)
    stop_s = options.optional_number("stop_s", above=start_s)
    rate = options.optional_number("request_rate", above=0.0)
    thin = options.optional_number("thin", above=0.0, most=1.0)
    limits = [n for n in (options.optional_whole("limit", least=1), spec.num_prompts) if n is not None]
    options.finish()
    if spec.arrival is not None or spec.closed_loop is not None:
        raise ScenarioError("workload.arrival: ServeGen's clients bring their own arrivals\nhint: trace.request_rate")
    clients = load_clients(path)
    end_s, scale = scaled_to(clients, start_s, stop_s, rate)
    count = min(limits) if limits else None if stop_s is not None else DEFAULT_NUM_PROMPTS
    return ServeGen(clients, start_s, end_s, scale, seed, window, count, thin)
