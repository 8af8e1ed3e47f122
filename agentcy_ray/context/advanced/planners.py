"""The languages of the Advanced engine."""

from __future__ import annotations

from agentcy_ray.context.advanced.query import Planners

PLANNERS: Planners = {}
