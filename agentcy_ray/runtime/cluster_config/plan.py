"""What will run where: the parts packed onto the nodes, at their fewest and at their most.

Ray's scheduler decides for itself; this is one way in which everything fits, or the proof by
first-fit that it does not.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from agentcy_ray.runtime.cluster_config.model import ClusterConfig, hot_path_needs
from agentcy_ray.runtime.cluster_config.nodes import Node
from agentcy_ray.runtime.cluster_config.parts import Needs

THIS_MACHINE = "this-machine"


@dataclass(frozen=True)
class PartPlan:
    """One part: how many, what each asks for, and how many of them each group takes."""

    part: str
    min: int
    max: int
    num_cpus: float
    memory: int
    gpus: float
    at_min: dict[str, int]
    at_max: dict[str, int]
    unplaced_at_min: int
    unplaced_at_max: int


@dataclass(frozen=True)
class NodePlan:
    """One group of nodes: how many run, and how much of them is asked for."""

    group: str
    nodes_at_min: int
    nodes_at_max: int
    cpus: int
    memory: int
    gpus: int
    cpus_used_at_min: float
    cpus_used_at_max: float
    memory_used_at_min: int
    memory_used_at_max: int
    gpus_used_at_min: float
    gpus_used_at_max: float


@dataclass(frozen=True)
class HotPathPlan:
    """One part of the tool-call path against the target, results a minute."""

    part: str
    needed: int
    """How many the target takes."""
    max: int
    carries: int
    """What ``max`` of them carry."""
    enough: bool


@dataclass(frozen=True)
class Plan:
    """The whole plan. It fits when everything has a place with all parts at their most."""

    calls_per_minute: int
    fits: bool
    fits_at_min: bool
    parts: list[PartPlan]
    nodes: list[NodePlan]
    hot_path: list[HotPathPlan]


@dataclass
class _Room:
    """What is left of one node."""

    group: Node
    cpus: float
    memory: int
    gpus: float
    resources: dict[str, float]

    def take(self, needs: Needs) -> bool:
        """Place one actor here, if it fits."""
        if not (
            needs.labels.items() <= self.group.all_labels.items()
            and needs.num_cpus <= self.cpus
            and needs.memory <= self.memory
            and needs.gpus <= self.gpus
            and all(self.resources.get(k, 0) >= v for k, v in needs.resources.items())
        ):
            return False
        self.cpus -= needs.num_cpus
        self.memory -= needs.memory
        self.gpus -= needs.gpus
        for name, amount in needs.resources.items():
            self.resources[name] -= amount
        return True


@dataclass
class _Packing:
    """Everything placed on as few nodes as first-fit finds."""

    rooms: list[_Room]
    placed: dict[str, Counter[str]] = field(default_factory=dict)
    unplaced: Counter[str] = field(default_factory=Counter)

    def nodes(self, group: Node) -> list[_Room]:
        """The nodes of a group that run."""
        return [room for room in self.rooms if room.group is group]


def plan(config: ClusterConfig, machine_memory: int, machine_gpus: int = 0) -> Plan:
    """Plan a cluster.

    Args:
        config: the cluster config.
        machine_memory: bytes of this machine; counts where the config names no nodes.
        machine_gpus: GPUs of this machine, as well.
    """
    groups = config.nodes or (_this_machine(config, machine_memory, machine_gpus),)
    fewest = _pack(config, groups, at_max=False)
    most = _pack(config, groups, at_max=True)
    return Plan(
        calls_per_minute=config.hot_path.calls_per_minute,
        fits=not most.unplaced,
        fits_at_min=not fewest.unplaced,
        parts=[
            PartPlan(
                part=name,
                min=low,
                max=high,
                num_cpus=needs.num_cpus,
                memory=needs.memory,
                gpus=needs.gpus,
                at_min=dict(fewest.placed[name]),
                at_max=dict(most.placed[name]),
                unplaced_at_min=fewest.unplaced[name],
                unplaced_at_max=most.unplaced[name],
            )
            for name, (needs, low, high) in config.parts().items()
        ],
        nodes=[_node_plan(config, group, fewest, most) for group in groups],
        hot_path=_hot_path(config),
    )


def _this_machine(config: ClusterConfig, memory: int, gpus: int) -> Node:
    return Node(
        name=THIS_MACHINE, role="head", cpus=config.ray.logical_cpus, memory=memory, gpus=gpus
    )


def usable_memory(config: ClusterConfig, node: Node) -> int:
    """Bytes of a node that actors may ask for: the object store has its own share."""
    return max(0, node.memory - config.ray.object_store_memory)


def _room(config: ClusterConfig, group: Node) -> _Room:
    return _Room(group, group.cpus, usable_memory(config, group), group.gpus, dict(group.resources))


def _pack(config: ClusterConfig, groups: tuple[Node, ...], *, at_max: bool) -> _Packing:
    """First-fit, the most demanding parts first; a group grows while its bounds allow."""
    packing = _Packing([_room(config, group) for group in groups for _ in range(group.min)])
    parts = sorted(
        config.parts().items(),
        key=lambda item: (item[1][0].gpus, item[1][0].memory, item[1][0].num_cpus),
        reverse=True,
    )
    for name, (needs, low, high) in parts:
        packing.placed[name] = Counter()
        for _ in range(high if at_max else low):
            room = next((room for room in packing.rooms if room.take(needs)), None)
            room = room or _grow(config, packing, groups, needs)
            if room is None:
                packing.unplaced[name] += 1
            else:
                packing.placed[name][room.group.name] += 1
    return packing


def _grow(
    config: ClusterConfig, packing: _Packing, groups: tuple[Node, ...], needs: Needs
) -> _Room | None:
    """Start one more node that can take the actor, in the order of the file."""
    for group in groups:
        if len(packing.nodes(group)) < group.max:
            room = _room(config, group)
            if room.take(needs):
                packing.rooms.append(room)
                return room
    return None


def _node_plan(config: ClusterConfig, group: Node, fewest: _Packing, most: _Packing) -> NodePlan:
    low, high = fewest.nodes(group), most.nodes(group)
    memory = usable_memory(config, group)

    def used(rooms: list[_Room]) -> tuple[float, int, float]:
        return (
            sum(group.cpus - room.cpus for room in rooms),
            sum(memory - room.memory for room in rooms),
            sum(group.gpus - room.gpus for room in rooms),
        )

    at_min, at_max = used(low), used(high)
    return NodePlan(
        group.name, len(low), len(high), group.cpus, memory, group.gpus,
        at_min[0], at_max[0], at_min[1], at_max[1], at_min[2], at_max[2],
    )  # fmt: skip


def _hot_path(config: ClusterConfig) -> list[HotPathPlan]:
    path, needed = config.hot_path, hot_path_needs(config.hot_path)
    rows: list[HotPathPlan] = []
    for part, most, rate in (
        ("api", config.api.replicas.max, path.calls_per_api_replica),
        ("agent", config.agent.replicas.max, path.calls_per_executor),
        ("session_hosts", config.session_hosts.max, path.calls_per_host),
    ):
        enough = needed[part] <= most
        rows.append(HotPathPlan(part, needed[part], most, most * rate, enough))
    return rows


def shortcomings(plan: Plan) -> list[dict[str, str]]:
    """What does not fit or does not carry the target: path, and message with the way out."""
    found: list[dict[str, str]] = []
    for row in plan.parts:
        if row.unplaced_at_max:
            which = "even at its fewest" if row.unplaced_at_min else "at its most"
            found.append({
                "path": row.part,
                "message": f"{row.unplaced_at_max} of {row.max} have no place {which}; raise max "
                "of a group of nodes, or ask for fewer or smaller ones",
            })  # fmt: skip
    found += [
        {
            "path": row.part,
            "message": f"{plan.calls_per_minute:,} calls a minute take {row.needed}, its max is "
            f"{row.max}; raise it, or write auto",
        }
        for row in plan.hot_path
        if not row.enough
    ]
    return found
