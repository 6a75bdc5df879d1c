"""Cameras from matches and points: relative poses, their scale, and depth from several views."""
