"""Runs to evaluate: select them, open them with their caches, store results in their directories."""
