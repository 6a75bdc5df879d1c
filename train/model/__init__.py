"""Student, projectors, and both together."""
