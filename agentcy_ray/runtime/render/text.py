"""YAML as people write it: keys in our order, texts of several lines as blocks, no aliases."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import yaml


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style = "|" if "\n" in value else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)


def to_yaml(*documents: Any) -> str:
    """One or several YAML documents."""
    return "---\n".join(
        yaml.dump(one, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10**9)
        for one in documents
    )


def rendered(target: str, documents: Iterable[Any]) -> str:
    """Documents under a line that says where they come from."""
    head = f"# Rendered by `agentcy cluster render --to {target}`; change the cluster config.\n"
    return head + to_yaml(*documents)
