"""What a student learns from a teacher: which features are compared, and how losses are weighed."""
