"""Arrow's compute functions; they are made at import, so a type checker cannot see them."""

from __future__ import annotations

from typing import Any

import pyarrow.compute

pc: Any = pyarrow.compute
