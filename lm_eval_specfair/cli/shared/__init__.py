"""What verbs share: arguments, refusals, and results that reach where they are sent."""
