"""From a recipe to measured files: planning, execution, measurement."""
