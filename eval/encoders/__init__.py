"""Frozen encoders to evaluate: a run's student, a DUNE checkpoint, a teacher."""
