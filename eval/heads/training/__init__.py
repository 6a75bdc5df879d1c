"""What trainings of all task heads share: the run directory, the loop over steps, schedules of learning rates."""
