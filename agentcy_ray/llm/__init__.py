"""Floor 3: language models by provider:model."""
