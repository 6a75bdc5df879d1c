"""Vision transformer, weight files and device choice, shared by teachers and the student."""
