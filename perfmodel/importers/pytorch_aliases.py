"""Which nodes of an exported PyTorch program share memory."""

from __future__ import annotations

from typing import Any


class Aliases:
    """Which nodes of a graph stand for the same memory: views of a tensor, and the results of what is written into it."""

    def __init__(self) -> None:
        self._place: dict[Any, int] = {}
        self._base: dict[Any, Any] = {}
        self._same: dict[Any, Any] = {}
        self._group: dict[Any, list[Any]] = {}

    def add(self, nodes: Any) -> None:
        """Take in the nodes of a graph, in their order."""
        for node in nodes:
            self._place[node] = len(self._place)
            source, written = self._source(node)
            self._base[node] = node if source is None else self._base[source]
            self._same[node] = self._same[source] if written else node
            self._group.setdefault(self._base[node], []).append(node)

    def same(self, one: Any, other: Any) -> bool:
        """Whether two nodes are one tensor, and not two views of it."""
        return self._same[one] is self._same[other]

    def read_after(self, node: Any, target: Any) -> list[Any]:
        """What was made before `node` from the memory of `target`, into which it writes, and is read later (an input may be)."""
        place = self._place[node]
        return [
            other
            for other in self._group[self._base[target]]
            if other is not target
            and self._place[other] < place
            and hasattr(other.meta.get("val"), "shape")
            and (other.op == "placeholder" or any(self._place[user] > place for user in other.users))
        ]

    @staticmethod
    def _source(node: Any) -> tuple[Any, bool]:
        """The node whose memory a node's result lies in, if any, and whether it is that very tensor."""
        if node.op != "call_function" or not node.args or not hasattr(node.args[0], "op"):
            return None, False
        schema = getattr(node.target, "_schema", None)
        if schema is None:
            return (node.args[0] if getattr(node.target, "__name__", "") == "getitem" else None), False
        shared = [item.alias_info for item in schema.returns if item.alias_info is not None]
        return (node.args[0], any(item.is_write for item in shared)) if shared else (None, False)
