"""What varies the pictures that a network learns from, a file each."""
