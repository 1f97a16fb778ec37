"""From a recipe to measured files: the plan, what carries it out, what measures it."""
