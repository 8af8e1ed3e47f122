"""Moving an organisation's graph from the Basic engine to the Advanced one."""
