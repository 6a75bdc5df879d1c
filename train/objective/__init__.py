"""Losses, targets and teacher dropping."""
