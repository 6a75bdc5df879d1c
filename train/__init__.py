"""Trains students from sealed caches, without a teacher in memory."""
