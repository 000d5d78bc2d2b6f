"""Logs of servers: what others saved of their traffic, as records like those of a run."""
