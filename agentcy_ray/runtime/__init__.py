"""Floor 6: Ray: cluster start and hardening, actors."""
