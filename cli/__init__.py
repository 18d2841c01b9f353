"""The program `volcast`: its table of commands, `volcast run` and `volcast models`."""
