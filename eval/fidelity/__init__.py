"""Fidelity: how well a student predicts its teachers' tokens on rows that it was not trained on."""
