"""Steps of a recipe, a file each."""
