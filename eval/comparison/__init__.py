"""Compare runs: paired differences on the same photographs, noise of seeds, ranking of recipes."""
