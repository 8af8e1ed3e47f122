"""Floor 7: Ray Serve, the deployments and the application. It joins ``api`` and ``runtime``."""
