"""What lissom asks of the operating system: temporary files, child processes, no telemetry."""
