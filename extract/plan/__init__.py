"""What a catalogue costs: rows, bytes and hours before anything starts."""
