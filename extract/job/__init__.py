"""An extraction job: stages, tasks, workers, executors, progress, failure limit."""
