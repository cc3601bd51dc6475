"""Parallel plans: how a model is cut over devices, which cuts are possible, and where the pieces go."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import TYPE_CHECKING

from llmsim.errors import InfeasibleError
from llmsim.hardware import Cluster, Link
from llmsim.model.shape import Attention, Lstm, ModelShape, Recurrent

if TYPE_CHECKING:
    import networkx


@dataclass(frozen=True, slots=True)
class Plan:
    """How one replica is cut: every layer over ``tensor`` devices, the layers over ``pipeline`` stages.

    With ``data`` above 1 attention runs in as many copies, the ranks of attention data parallelism: each has the
    weights of attention and of dense blocks once (over ``tensor`` devices) and sequences of its own, while the routed
    experts are shared by all.  ``expert`` is over how many devices experts are dealt whole; what is left of the devices
    of a stage cuts each expert.
    """

    tensor: int = 1
    pipeline: int = 1
    data: int = 1
    expert: int = 1

    @property
    def group(self) -> int:
        """Devices of one stage, which move in lockstep."""
        return self.tensor * self.data

    @property
    def devices(self) -> int:
        """Devices of one replica."""
        return self.group * self.pipeline

    @property
    def expert_tensor(self) -> int:
        """Over how many devices each expert is cut."""
        return self.group // self.expert

    @property
    def told(self) -> str:
        """The plan in short: ``TP8``, ``TP1 DP8 EP8``, ``TP4 PP2``."""
        sizes = (("PP", self.pipeline), ("DP", self.data), ("EP", self.expert))
        return " ".join([f"TP{self.tensor}", *(f"{name}{size}" for name, size in sizes if size > 1)])


@dataclass(frozen=True, slots=True)
class Stage:
    """The devices that hold layers ``first_layer`` to ``last_layer`` (exclusive) and move in lockstep.

    ``collective`` is what limits an operation among them, None for a single device; ``inner`` the same among the first
    copy of attention, where there are several; ``onward`` is the way to the next stage, None for the last.
    """

    index: int
    first_layer: int
    last_layer: int
    devices: tuple[str, ...]
    collective: Link | None = None
    onward: Link | None = None
    inner: Link | None = None

    @property
    def layers(self) -> int:
        """Number of layers of this stage."""
        return self.last_layer - self.first_layer


def check(model: ModelShape, plan: Plan) -> None:
    """Raise when a model cannot be cut this way.

    Raises:
        InfeasibleError: a size is not divided evenly, or there are more stages than layers.
    """
    if plan.tensor < 1 or plan.pipeline < 1:
        raise InfeasibleError(f"plan: sizes start at 1 (got tensor {plan.tensor}, pipeline {plan.pipeline})")
    _check_experts(model, plan)
    reason = _undivided(model, plan.tensor)
    if reason:
        recurrent = [layer.recurrent for layer in model.layers if layer.recurrent is not None]
        heads = [attention.heads for attention in _attentions(model)] + [_divisible(block) for block in recurrent]
        widest = max(heads)
        valid = ", ".join(str(size) for size in range(1, widest + 1) if not _undivided(model, size))
        raise InfeasibleError(f"tensor_parallel_size: {reason} of {model.name}\nhint: valid values: {valid}")
    if plan.pipeline > len(model.layers):
        raise InfeasibleError(
            f"pipeline_parallel_size: {plan.pipeline} stages, but only {len(model.layers)} layers in {model.name}\n"
            f"hint: valid values: 1 to {len(model.layers)}"
        )


def _check_experts(model: ModelShape, plan: Plan) -> None:
    """Raise when experts cannot be dealt, or ranks of attention not be run, as the plan says."""
    if plan.data < 1 or plan.expert < 1:
        raise InfeasibleError(f"plan: sizes start at 1 (got data {plan.data}, expert {plan.expert})")
    experts = fewest_experts(model)
    if plan.data > 1 and not experts:
        raise InfeasibleError(
            f"data_parallel_size: {model.name} has no experts, so copies of it share nothing (got {plan.data})\n"
            "hint: deployment.replicas for copies of a dense model"
        )
    if plan.expert > 1 and not experts:
        raise InfeasibleError(f"expert parallelism: {model.name} has no experts (got {plan.expert} devices for them)")
    if plan.group % plan.expert:
        raise InfeasibleError(
            f"expert parallelism: {plan.expert} does not divide the {plan.group} devices of a stage "
            f"(tensor {plan.tensor} x data {plan.data})"
        )
    if plan.expert > max(experts, 1):
        raise InfeasibleError(f"expert parallelism: {plan.expert} devices for {experts} experts of {model.name}")


def fewest_experts(model: ModelShape) -> int:
    """Return the experts of the smallest mixture of a model, 0 when it has none."""
    blocks = [layer.feed_forward for layer in model.layers if layer.feed_forward is not None]
    return min((block.experts for block in blocks if block.experts), default=0)


def _undivided(model: ModelShape, tensor: int) -> str | None:
    """Return what ``tensor`` does not divide, None when vLLM would accept it."""
    for attention in _attentions(model):
        if attention.heads % tensor:
            return f"{tensor} does not divide {attention.heads} heads"
        if attention.kind == "gqa" and attention.kv_heads % tensor and tensor % attention.kv_heads:
            return f"{tensor} neither divides nor is a multiple of {attention.kv_heads} KV heads"
    for block in dict.fromkeys(layer.feed_forward for layer in model.layers):
        # Fused expert kernels pad their width, plain matrices do not.
        if block is not None and not block.experts and block.intermediate_size % tensor:
            return f"{tensor} does not divide the feed-forward width {block.intermediate_size}"
    for recurrent in dict.fromkeys(layer.recurrent for layer in model.layers if layer.recurrent is not None):
        if _divisible(recurrent) % tensor:
            return f"{tensor} does not divide the {_divisible(recurrent)} heads of recurrent layers"
    return None


def _divisible(block: Recurrent | Lstm) -> int:
    """Return what of a recurrent block is cut over devices: its heads, or the elements of an LSTM."""
    return block.hidden_size if isinstance(block, Lstm) else block.heads


def _attentions(model: ModelShape) -> list[Attention]:
    """Return the different attentions of a model, its encoder's and those to the encoder included."""
    layers = (*model.encoder, *model.layers)
    return list(dict.fromkeys(one for layer in layers for one in (layer.attention, layer.cross) if one is not None))


def layer_ranges(layers: int, pipeline: int) -> list[tuple[int, int]]:
    """Return the first and last (exclusive) layer of each stage, as vLLM's ``get_pp_indices`` cuts them.

    What is left after even division goes one by one to the stages before the last, from the back: the
    last stage has the output matrix to bear.
    """
    sizes = [layers // pipeline] * pipeline
    for extra in range(layers % pipeline):
        sizes[-(extra + 2)] += 1
    ends = [sum(sizes[: index + 1]) for index in range(pipeline)]
    return list(zip([0, *ends[:-1]], ends, strict=True))


def place(model: ModelShape, plan: Plan, cluster: Cluster, replicas: int = 1) -> list[tuple[Stage, ...]]:
    """Return the stages of each replica, on devices of their own.

    Devices are given out node by node in order.  A replica goes whole into the first node with room for
    it; if there is none, each stage goes whole into the first node with room; a stage wider than every
    node takes whole nodes, or what the nodes have left in order.

    Raises:
        InfeasibleError: the plan does not suit the model (see `check`), or the devices do not suffice.
    """
    check(model, plan)
    if replicas < 1:
        raise InfeasibleError(f"replicas: must be at least 1 (got {replicas})")
    wanted = replicas * plan.devices
    if wanted > cluster.devices:
        raise InfeasibleError(
            f"{replicas} x {_named(plan)} wants {wanted} devices: "
            f"{cluster.name} has {cluster.devices}\n"
            f"hint: {cluster.devices // plan.devices} such replicas fit, or add nodes"
        )
    free = [list(names) for names in cluster.device_names()]
    ranges = layer_ranges(len(model.layers), plan.pipeline)
    wires = _Wires(cluster)
    return [_stages(ranges, _take_replica(free, plan, cluster), wires, plan) for _ in range(replicas)]


def _named(plan: Plan) -> str:
    """Return a plan as one would write it, sizes of 1 beyond tensor and pipeline left out."""
    more = "".join(f", {name}={size}" for name, size in (("data", plan.data), ("expert", plan.expert)) if size > 1)
    return f"Plan(tensor={plan.tensor}, pipeline={plan.pipeline}{more})"


def _take_replica(free: list[list[str]], plan: Plan, cluster: Cluster) -> list[tuple[str, ...]]:
    """Take the devices of one replica out of ``free``: one tuple a stage."""
    whole = next((node for node in free if len(node) >= plan.devices), None)
    if whole is not None:
        return [_take([whole], plan.group) for _ in range(plan.pipeline)]
    groups = []
    for _ in range(plan.pipeline):
        node = next((node for node in free if len(node) >= plan.group), None)
        group = _take([node] if node is not None else _several(free, plan.group, cluster), plan.group)
        kinds = dict.fromkeys(cluster.device_of(name).name for name in group)
        if len(kinds) > 1:
            raise InfeasibleError(
                f"{_named(plan)}: the devices left in {cluster.name} for one "
                f"stage are of different kinds (got {', '.join(kinds)})"
            )
        groups.append(group)
    return groups


def _several(free: list[list[str]], count: int, cluster: Cluster) -> list[list[str]]:
    """Return nodes that together have ``count`` free devices: untouched ones first, so that fewer take part."""
    sizes = [node.devices for node in cluster.nodes]
    order = sorted(range(len(free)), key=lambda index: (len(free[index]) != sizes[index], index))
    chosen: list[list[str]] = []
    for index in order:
        if free[index] and sum(map(len, chosen)) < count:
            chosen.append(free[index])
    return chosen


def _take(nodes: Sequence[list[str]], count: int) -> tuple[str, ...]:
    taken: list[str] = []
    for node in nodes:
        part = min(count - len(taken), len(node))
        taken += node[:part]
        del node[:part]
    return tuple(taken)


class _Wires:
    """Links of groups of devices, looked up once for each pattern: equal nodes are wired alike."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._graph = cluster.graph()
        self._known: dict[object, Link | None] = {}

    def collective(self, group: tuple[str, ...]) -> Link | None:
        key = ("collective", self._pattern(group))
        if key not in self._known:
            self._known[key] = collective(self._part(group), group)
        return self._known[key]

    def between(self, group: tuple[str, ...], following: tuple[str, ...]) -> Link | None:
        devices = (*group, *following)
        key = ("between", self._pattern(devices))
        if key not in self._known:
            self._known[key] = between(self._part(devices), group, following)
        return self._known[key]

    def _pattern(self, devices: Sequence[str]) -> tuple[object, ...]:
        """Return what tells two groups apart: nodes in order of appearance, and the places within them."""
        places = [name.split(".") for name in devices]
        order = {node: index for index, node in enumerate(dict.fromkeys(node for node, _ in places))}
        kinds = tuple(id(self._cluster.nodes[int(node.removeprefix("n"))]) for node in order)
        return kinds, tuple((order[node], place) for node, place in places)

    def _part(self, devices: Sequence[str]) -> "networkx.Graph[str]":
        """Return the graph of the nodes that take part, which is quick to search however large the cluster."""
        nodes = dict.fromkeys(name.split(".")[0] for name in devices)
        names = [name for name in self._graph if name == "switch" or name.split(".")[0] in nodes]
        return self._graph.subgraph(names).copy()


def _stages(
    ranges: list[tuple[int, int]], groups: list[tuple[str, ...]], wires: _Wires, plan: Plan
) -> tuple[Stage, ...]:
    onward = [wires.between(group, following) for group, following in pairwise(groups)]
    return tuple(
        Stage(
            index,
            first,
            last,
            devices,
            wires.collective(devices),
            link,
            wires.collective(devices[: plan.tensor]) if plan.data > 1 else None,
        )
        for index, ((first, last), devices, link) in enumerate(zip(ranges, groups, [*onward, None], strict=True))
    )


# -- links --------------------------------------------------------------------------------------------


def route(graph: "networkx.Graph[str]", source: str, target: str) -> list[tuple[str, str]]:
    """Return the hops from ``source`` to ``target`` on the way that takes a message of 1 MB the least time."""
    import networkx

    path = networkx.shortest_path(graph, source, target, weight="weight")
    return list(pairwise(path))


def as_link(graph: "networkx.Graph[str]", hops: Sequence[tuple[str, str]]) -> Link:
    """Return a way as one link: kind and bandwidth of its slowest hop, and all its latencies added up."""
    edges = [graph.edges[hop] for hop in hops]
    slowest = min(edges, key=lambda edge: float(edge["bandwidth"]))
    return Link(str(slowest["kind"]), float(slowest["bandwidth"]), sum(float(edge["latency_s"]) for edge in edges))


def between(graph: "networkx.Graph[str]", group: Sequence[str], following: Sequence[str]) -> Link:
    """Return the slowest of the ways on which the ranks of one stage send to those of the next, rank to rank."""
    links = [as_link(graph, route(graph, one, other)) for one, other in zip(group, following, strict=True)]
    return min(links, key=lambda link: (link.bandwidth, -link.latency_s))


def collective(graph: "networkx.Graph[str]", devices: Sequence[str]) -> Link | None:
    """Return what limits an operation among ``devices``: the slowest link on the ways between them.

    Devices that are joined directly, without a switch (mesh, ring, torus), use all their direct links at
    once, so the bandwidth is that of one times the number of members next to the member with the fewest.  A group
    over several nodes uses as many network cards of each at once as it has devices there (NCCL's rings, one a card).
    """
    if len(devices) < 2:
        return None
    links = [as_link(graph, _hops_among(graph, devices, one, other)) for one, other in _pairs(devices)]
    slowest = min(links, key=lambda link: (link.bandwidth, -link.latency_s))
    latency = max(link.latency_s for link in links)
    beside = min(sum(graph.has_edge(one, other) for other in devices) for one in devices) or _rails(graph, devices)
    return Link(slowest.kind, slowest.bandwidth * max(beside, 1), latency)


def _rails(graph: "networkx.Graph[str]", devices: Sequence[str]) -> int:
    """Return how many network cards of each node a group uses at once; 1 for a group in one node."""
    members = Counter(name.split(".")[0] for name in devices)
    if len(members) == 1:
        return 1
    cards = Counter(name.split(".")[0] for name, kind in graph.nodes(data="kind") if kind == "nic")
    return max(min(min(count, cards[node]) for node, count in members.items()), 1)


def _pairs(devices: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the pairs worth looking at: all pairs of a small group, neighbours in rank order of a large one."""
    if len(devices) <= 8:
        return combinations(devices, 2)
    return iter([*pairwise(devices), (devices[-1], devices[0])])


def _hops_among(
    graph: "networkx.Graph[str]", members: Sequence[str], source: str, target: str
) -> list[tuple[str, str]]:
    """Return the way between two members, through other members where these are joined directly."""
    import networkx

    direct = graph.subgraph(members)
    if networkx.has_path(direct, source, target):
        return route(direct, source, target)
    return route(graph, source, target)
