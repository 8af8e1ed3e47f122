"""The one cluster config turned into what Serve, Kubernetes, Helm and ``ray up`` read."""
