"""Configuration files, command lines, threads, text and atomic files: what every package shares."""
