"""Carrying out a migration from the Basic engine to the Advanced one, as a job."""
