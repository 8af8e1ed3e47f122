"""Floor 3: the Context Engine, a knowledge graph cut into realms, behind one protocol."""
