"""Cost of a catalogue before anything starts: rows, bytes and hours."""
