"""Parts of Arrow that are made at import, so a type checker cannot see them."""

from __future__ import annotations

from typing import Any

import pyarrow.compute
import pyarrow.flight

pc: Any = pyarrow.compute
fl: Any = pyarrow.flight
