"""Knowledge distillation: the features to compare, and the weights of the losses."""
