"""Operating-system services: temporary files, child processes, telemetry switched off."""
