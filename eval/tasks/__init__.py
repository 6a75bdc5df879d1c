"""Metrics of the teachers' own tasks as pure functions, and scoring of prediction files."""
