"""The sections of a scenario file, as pydantic models: which keys there are, of which type, within which bounds."""

from typing import TYPE_CHECKING, Annotated, Any, Literal, Optional

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, create_model, model_validator
from pydantic_core import PydanticCustomError

from llmsim.model.transform import PRUNE_KINDS
from llmsim.schema.flags import DEFAULT_PRESET, Flag
from llmsim.schema.other_flags import ALL_FLAGS
from llmsim.schema.values import NameOrMapping, Number, SecondsOrCount, Switch, Text, Whole, quantity

AtLeastOne = Annotated[Whole, Field(ge=1)]
Positive = Annotated[Number, Field(gt=0)]
NotNegative = Annotated[Number, Field(ge=0)]

# Measured: a byte-level BPE of 32,000 entries (Hugging Face tokenizers 0.23, trained on program text) encodes texts of
# 400 to 40,000 characters at 1.8-2.1 us a token on one core of a server Xeon.
TOKENIZE_US = 2.0


def _under(key: str) -> BeforeValidator:
    """Let a section be written as one word: ``router: round_robin`` for ``router: {policy: round_robin}``."""
    return BeforeValidator(lambda value: value if isinstance(value, dict | BaseModel) else {key: value})


class Section(BaseModel):
    """A mapping with known keys; any other key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class NodesSection(Section):
    """Servers of one kind."""

    type: NameOrMapping | None = Field(None, description="node of the catalogue, path to its .yaml, or its content")
    count: AtLeastOne = Field(1, description="how many")


class DevicesSection(Section):
    """The devices of one server, inline."""

    type: NameOrMapping = Field(description="device of the catalogue, path to its .yaml, or its content")
    count: AtLeastOne = Field(description="devices in a node")
    memory: Annotated[str, quantity("bytes")] | None = Field(None, description="memory of a device, such as 80GiB")


class LinkSection(Section):
    """One kind of link of the nodes, replacing the catalogue's."""

    between: Literal["devices", "host", "network"] = Field(description="devices, device to host, or node to network")
    kind: Text | None = Field(None, description="name of the technology, such as nvlink")
    bandwidth: Annotated[str, quantity("bytes/s")] | None = Field(None, description="per direction, such as 450GB/s")
    latency: Annotated[str, quantity("s")] | None = Field(None, description="such as 2us")
    count: AtLeastOne | None = Field(None, description="links of a node into the network")


class ClusterSection(Section):
    """The machine: a name, or a device and how many, or nodes of the catalogue, or nodes described inline."""

    name: Text | None = Field(None, description="cluster of the catalogue, or path to its .yaml")
    gpu: Text | None = Field(None, description="device of the catalogue, in its usual node")
    num_gpus: AtLeastOne | None = Field(None, description="devices; default: as many as the deployment needs")
    nodes: NodesSection | None = None
    gpus: DevicesSection | None = None
    links: list[LinkSection] | None = None

    @model_validator(mode="after")
    def _one_way(self) -> "ClusterSection":
        given = [key for key in ("name", "gpu", "nodes", "gpus") if getattr(self, key) is not None]
        if given == ["nodes", "gpus"] and self.nodes is not None and self.nodes.type is None:
            given = ["gpus"]
        elif self.nodes is not None and self.nodes.type is None:
            raise ValueError("nodes: give a type of the catalogue, or gpus beside it")
        if len(given) != 1:
            said = " and ".join(given) if given else "nothing"
            raise ValueError(f"give exactly one of name, gpu, nodes, gpus (got {said})")
        if self.num_gpus is not None and self.gpu is None:
            raise ValueError("num_gpus goes with gpu only")
        return self


def _sizes(value: Any) -> Any:
    """Take ``layers=12,hidden=768`` for a mapping, as the command line says it."""
    if not isinstance(value, str):
        return value
    pairs = [part.partition("=") for part in value.replace(" ", ",").split(",") if part]
    for name, _, size in pairs:
        if name not in StudentSection.model_fields or not size:
            known = ", ".join(StudentSection.model_fields)
            raise PydanticCustomError(
                "value", "{what}", {"what": f"not SIZE=N with SIZE one of {known} (got {name + '=' + size})"}
            )
    return {name: size for name, _, size in pairs}


class StudentSection(Section):
    """The sizes of a distilled model; what is not given goes with the hidden size, or stays as it is."""

    layers: AtLeastOne | None = Field(None, description="layers")
    hidden: AtLeastOne | None = Field(None, description="hidden size")
    heads: AtLeastOne | None = Field(None, description="query heads")
    kv_heads: AtLeastOne | None = Field(None, description="key-value heads")
    intermediate: AtLeastOne | None = Field(None, description="width of the feed-forward")


class ModelTransformSection(Section):
    """What is done to the model before it is served: distilled, then pruned.  Quality is not modelled."""

    prune: Annotated[Number, Field(ge=0, lt=1)] = Field(0.0, description="share taken away")
    # The kinds are those of another room: a tuple at run time, which a type checker cannot look into.
    prune_kind: Literal[PRUNE_KINDS] = Field(  # type: ignore[valid-type]
        "width", description="what is taken: width is heads and neurons; unstructured makes nothing faster"
    )
    distill_to: Annotated[StudentSection, BeforeValidator(_sizes)] | None = Field(
        None, description="sizes of a smaller model of the same make, such as {layers: 12}"
    )


class RouterSection(Section):
    """Which replica gets a request."""

    policy: Text = Field("round_robin", description="a router (llmsim list routers), or package.module:function")


class DeploymentSection(Section):
    """How many engines, and how requests reach them."""

    replicas: AtLeastOne = Field(1, description="engines, each with tensor x pipeline devices")
    router: Annotated[RouterSection, _under("policy")] = RouterSection()
    cold_start: Switch = Field(False, description="replicas copy their weights over the hosts' links before they serve")
    start_interval_s: NotNegative = Field(0.0, description="seconds between the cold starts of two replicas")


def _scheduler_name(value: Any) -> Any:
    """Take a class of the user's by the name under which it is found again; leave anything else as it is."""
    if not isinstance(value, type) and not callable(value):
        return value
    from llmsim.schema.policies import is_found, label_of

    if not is_found(value):
        said = label_of(value)
        raise ValueError(f"{said} is not found by that name\nhint: simulate(scenario, scheduler=...) takes any class")
    return label_of(value)


class SchedulerSection(Section):
    """Who computes what next; the other keys are settings of the named scheduler (llmsim show NAME)."""

    model_config = ConfigDict(extra="allow", frozen=True, protected_namespaces=())

    name: Annotated[Text | None, BeforeValidator(_scheduler_name)] = Field(
        None, description="a scheduler (llmsim list schedulers), or package.module:Class; default: the preset's"
    )


class PerformanceSection(Section):
    """Where the price of a step comes from."""

    model: Literal["auto", "fitted", "data_sheet", "roofline"] = Field(
        "auto", description="fitted coefficients where there are any, else the data sheet; or insist on one"
    )
    stack: Text | None = Field(None, description="software stack of the fitted coefficients, such as vllm")
    static_quant: Switch | None = Field(None, description="fp8/nvfp4 with static scales: no quantisation kernels")
    residuals: Text | None = Field(None, description="CSV of measured kernels that correct the formulas")
    calibration: Text | None = Field(None, description="file that llmsim calibrate wrote")
    force_calibration: Switch = Field(False, description="apply a calibration of another device all the same")
    tokenize_us_per_token: NotNegative = Field(
        TOKENIZE_US, description="host time to tokenize a prompt, microseconds a token on one core; 0 for token ids"
    )


class TraceSection(Section):
    """Requests from a recorded trace."""

    model_config = ConfigDict(extra="allow", frozen=True, protected_namespaces=())

    path: Text = Field(description="file; its format is recognised by content")
    format: Text = Field("auto", description="auto, or the name of a format (llmsim trace info --help)")
    speedup: Positive = Field(1.0, description="2 plays the trace in half the time")


class DatasetSection(Section):
    """Lengths of generated requests; the other keys are parameters of the named kind."""

    model_config = ConfigDict(extra="allow", frozen=True, protected_namespaces=())

    name: Text | None = Field(None, description="random, fixed, uniform, lognormal, mixture, table, sharegpt, ...")


class ArrivalSection(Section):
    """Moments of arrival of generated requests; the other keys are parameters of the named kind."""

    model_config = ConfigDict(extra="allow", frozen=True, protected_namespaces=())

    kind: Text | None = Field(None, description="poisson, gamma, weibull, constant, mmpp, diurnal, vllm, ...")
    request_rate: Positive | None = Field(None, description="requests a second; inf: all at once")
    burstiness: Positive | None = Field(None, description="shape of gamma gaps: 1 Poisson, below 1 burstier")


class ClosedLoopSection(Section):
    """Users who each wait for an answer before they ask again."""

    model_config = ConfigDict(extra="allow", frozen=True, protected_namespaces=())

    concurrency: AtLeastOne = Field(description="requests in flight")


class SessionsSection(Section):
    """Users whose turns build on each other; the other keys are in docs/workloads.md."""

    model_config = ConfigDict(extra="allow", frozen=True, protected_namespaces=())

    users: AtLeastOne | None = Field(None, description="one session after the other each; default: workload.arrival")
    count: AtLeastOne | None = Field(None, description="sessions; default: 100")


class SplitSection(Section):
    """How long inputs are cut into requests of their own."""

    chunk: AtLeastOne = Field(description="tokens of a piece")
    overlap: Annotated[Whole, Field(ge=0)] = Field(0, description="tokens that a piece shares with the one before it")
    merge: Switch = Field(False, description="one more request reads the answers and gives the one asked for")
    piece_output: AtLeastOne | None = Field(None, description="tokens of a piece's answer; default: the request's own")
    merge_prompt: Annotated[Whole, Field(ge=0)] = Field(0, description="tokens of instructions before the answers")


class WorkloadSection(Section):
    """What is asked of the cluster: a preset, a trace, sessions, or lengths with arrivals or a closed loop."""

    preset: Text | None = Field(None, description="workload of the catalogue (llmsim list workloads)")
    dataset: Annotated[DatasetSection, _under("name")] | None = None
    arrival: Annotated[ArrivalSection, _under("kind")] | None = None
    trace: Annotated[TraceSection, _under("path")] | None = None
    closed_loop: Annotated[ClosedLoopSection, _under("concurrency")] | None = None
    sessions: SessionsSection | None = None
    split_long: Annotated[SplitSection, _under("chunk")] | None = None
    num_prompts: AtLeastOne | None = Field(None, description="requests; default: 1000, or all rows of a trace")
    on_too_long: Literal["reject", "truncate", "error"] = Field("reject", description="a request that can never fit")
    warmup: SecondsOrCount = Field(0, description="requests or a duration such as 30s left out of metrics; auto: found")


class OutputSection(Section):
    """What is shown and written."""

    percentiles: list[Annotated[Number, Field(ge=0, le=100)]] = Field(
        [50.0, 90.0, 95.0, 99.0], min_length=1, description="of every latency"
    )
    metrics: list[Literal["ttft", "ttfn", "tpot", "itl", "e2el", "queue_time"]] = Field(
        ["ttft", "tpot", "itl", "e2el"], description="latencies in the result block"
    )
    first_tokens: AtLeastOne | None = Field(None, description="N of the time to the first N output tokens, ttfn")
    requests: Literal["csv", "none"] = Field("csv", description="format of the table of requests")


_TYPES: dict[str, Any] = {
    "int": Whole,
    "float": Number,
    "bool": Switch,
    "text": Text,
    "json": NameOrMapping,
    "sizes": list[AtLeastOne],
}


def _field(flag: Flag) -> tuple[Any, Any]:
    kind = Literal[flag.choices] if flag.choices else _TYPES[flag.kind]
    if flag.minimum is not None:
        kind = Annotated[kind, Field(ge=flag.minimum, le=flag.maximum)]
    note = "" if flag.status == "modelled" else f" ({flag.status})"
    # Optional, not "| None": the kinds are values here, some of which do not support the operator.
    return Optional[kind], Field(None, description=f"{flag.help or flag.name}{note}")  # noqa: UP045


if TYPE_CHECKING:

    class EngineSection(Section):
        """Every engine flag of every preset; None: the preset's default."""

        preset: str = DEFAULT_PRESET
else:
    EngineSection = create_model(
        "EngineSection",
        __base__=Section,
        __module__=__name__,
        __doc__="Every engine flag of every preset; None: the preset's default.",
        preset=(Text, Field(DEFAULT_PRESET, description="fixes every default: engine and version")),
        **{flag.name: _field(flag) for flag in ALL_FLAGS.values()},
    )
