"""Small supervised heads on a frozen encoder: what its tokens are good for."""
