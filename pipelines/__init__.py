"""What is done to a dataset, in which order, on how many machines. Knows nothing of model maths."""
