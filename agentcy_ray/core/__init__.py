"""Floor 1: the words that every room speaks. No I/O, no Ray."""
