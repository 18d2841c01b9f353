"""What every process of Volcast shares: errors, configuration, logs, the command line's habits, feature schemas."""
