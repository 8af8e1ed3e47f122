"""``python -m agentcy_ray.cli``."""

from agentcy_ray.cli.main import main

main()
