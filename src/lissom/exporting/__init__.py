"""Writing networks to files: code that several targets share."""
