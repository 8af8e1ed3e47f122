"""Budgets: what organisations, users, agents and runs may use; reserved before, settled after."""
