"""Recipes of the trainings of task heads, as typed configurations; nothing here imports torch."""
