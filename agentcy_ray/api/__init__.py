"""Floor 6: HTTP: routes, middleware, error shape."""
