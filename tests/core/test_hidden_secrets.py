"""What holds a secret keeps it out of its ``repr``, and so out of logs and tracebacks."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.trees import parsed

ROOT = Path(__file__).parents[2] / "agentcy_ray"
SMELLS = re.compile(
    r"(?:^|_)(?:secret|password|passwd|passphrase|token|api_?key|credentials?|bearer|authorization"
    r"|wrapped_key|data_key|ciphertext|plain|encryption_key|jwt_secret|private_key|verifier)"
    r"(?:_previous)?$"
)
FORMS = {"dataclass", "BaseModel", "NamedTuple", "ConnectorConfig"}
NOT_SECRET: set[str] = set()
"""``Class.field`` whose name misleads."""


def forms(tree: ast.Module) -> Iterator[ast.ClassDef]:
    """Dataclasses, named tuples, models, and classes of the same file that extend them."""
    known = set(FORMS)
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            parts = " ".join(ast.unparse(part) for part in (*node.bases, *node.decorator_list))
            if known & set(re.findall(r"\w+", parts)):
                known.add(node.name)
                yield node


def shown() -> Iterator[str]:
    """Fields of texts and bytes that smell of a secret and stand in a ``repr``."""
    for path in sorted(ROOT.rglob("*.py")):
        for form in forms(parsed(path)):
            for field in form.body:
                if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
                    continue
                name, kind = field.target.id, ast.unparse(field.annotation)
                if not SMELLS.search(name) or not re.search(r"\b(str|bytes)\b", kind):
                    continue
                how = kind + (ast.unparse(field.value) if field.value else "")
                if "repr=False" not in how and f"{form.name}.{name}" not in NOT_SECRET:
                    yield f"{path.relative_to(ROOT)}:{field.lineno} {form.name}.{name}: {kind}"


def test_a_repr_shows_no_field_that_holds_a_secret() -> None:
    found = list(shown())
    assert not found, "give these repr=False, or make them SecretStr:\n" + "\n".join(found)
