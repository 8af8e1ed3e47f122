"""Floor 3: connectors. A source yields Arrow batches; a tool provider executes calls."""
