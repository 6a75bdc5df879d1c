"""Recipes: complete typed configurations of a training."""
