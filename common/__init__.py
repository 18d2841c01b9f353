"""Code that all processes of Volcast share: errors, configuration, logs, command-line options, feature schemas."""
