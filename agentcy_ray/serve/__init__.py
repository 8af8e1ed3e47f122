"""Floor 7: Ray Serve: deployments and the application."""
