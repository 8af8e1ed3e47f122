"""Front ends of the query languages: parse, refuse what is not read-only, put the scope in."""
