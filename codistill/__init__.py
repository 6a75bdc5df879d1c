"""codistill: run the teachers once, train every student after that from the cache."""
