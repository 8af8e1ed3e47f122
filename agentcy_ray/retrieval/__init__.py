"""Floor 3: from entities to text, chunks, vectors, and back by search."""
