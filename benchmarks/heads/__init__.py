"""Speed of the task heads."""
