"""The offline teacher-feature cache: format, reading, writing, sealing, checking. Imports no torch."""
