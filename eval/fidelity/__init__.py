"""Fidelity: how well a student predicts the teachers on held-out rows."""
