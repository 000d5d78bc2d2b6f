"""Two or more runs of the same requests: paired changes, Pareto front, gate."""
