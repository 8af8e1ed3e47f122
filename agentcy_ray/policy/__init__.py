"""Floor 3: Rego policies, evaluated in process."""
