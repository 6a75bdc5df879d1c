"""Open runs, choose among them, store results beside them."""
