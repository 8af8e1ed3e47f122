"""Floor 3: durable jobs: the Postgres row is the truth, the queue carries ids."""
