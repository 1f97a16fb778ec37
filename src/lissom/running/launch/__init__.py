"""Make the nodes of a plan with several workers: the schedule and the kinds of workers."""
