"""Probes: small supervised heads trained on the tokens of a frozen encoder."""
