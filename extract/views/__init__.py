"""Decode an image, sample a view of it, render its pixels."""
