"""Encoders that are probed: students, teachers, peers."""
