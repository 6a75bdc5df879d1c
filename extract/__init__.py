"""Runs teachers over datasets once: catalogue, views, teachers, stages, engine."""
