"""Metrics of the teachers' own tasks, as pure functions, and the scoring of prediction files."""
