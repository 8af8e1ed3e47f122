"""Floor 4: packages, differences, publishing and the sync state machine."""
