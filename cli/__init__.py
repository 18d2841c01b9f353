"""The `volcast` program: its table of commands, and `volcast run`."""
