"""What each metric is: a function of sums, with its unit and its direction."""
