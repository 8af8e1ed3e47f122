"""As much of Helm's template language as our chart uses; anything else is refused."""

from __future__ import annotations

import re
from typing import Any

import orjson
import yaml

_ACTION = re.compile(r"\{\{(-?) ?(.*?) ?(-?)\}\}", re.DOTALL)
_INDEX = re.compile(r'\(index (\.[\w.]+) "([\w-]+)"\)\.(\w+)')


def template(files: dict[str, str], release: str, namespace: str, **values: Any) -> list[Any]:
    """The manifests of a chart, as ``helm template`` gives them.

    Args:
        files: text by path in the chart.
        release: name of the release.
        namespace: where it goes.
        values: top-level values that replace those of ``values.yaml``, section by section.
    """
    given: dict[str, Any] = yaml.safe_load(files["values.yaml"])
    for name, value in values.items():
        given[name] = {**given[name], **value} if isinstance(value, dict) else value
    scope = {"Values": given, "Release": {"Name": release, "Namespace": namespace}}
    documents: list[Any] = []
    for path, text in files.items():
        if path.startswith("templates/"):
            documents += yaml.safe_load_all(_fill(text, scope))
    return [document for document in documents if document]


def _fill(text: str, scope: dict[str, Any]) -> str:
    text = re.sub(r"\s*\{\{- end \}\}", "{{ end }}", text)
    block = re.compile(r"\{\{- if (\S+) \}\}(.*?)\{\{ end \}\}", re.DOTALL)
    text = block.sub(lambda m: m[2] if _value(m[1], scope) else "", text)
    return _ACTION.sub(lambda action: _pipe(action[2], scope), text)


def _pipe(expression: str, scope: dict[str, Any]) -> str:
    first, *filters = [step.strip() for step in expression.split("|")]
    if first.startswith("toYaml "):
        value: Any = yaml.safe_dump(_value(first.removeprefix("toYaml "), scope)).strip()
    else:
        value = _value(first, scope)
    for name in filters:
        if name == "quote":
            value = orjson.dumps(value).decode()
        elif name.startswith("nindent "):
            pad = "\n" + " " * int(name.split()[1])
            value = pad + str(value).replace("\n", pad)
        else:
            raise ValueError(f"filter {name!r} is not in our part of Helm's language")
    return str(value)


def _value(path: str, scope: Any) -> Any:
    match = _INDEX.fullmatch(path)
    if match:
        return _value(match[1], scope)[match[2]][match[3]]
    if not re.fullmatch(r"(\.\w+)+", path):
        raise ValueError(f"expression {path!r} is not in our part of Helm's language")
    for part in path.strip(".").split("."):
        scope = scope[part]  # Helm would render nothing for what is not there; here it is a fault
    return scope
