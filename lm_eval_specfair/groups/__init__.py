"""Who a request belongs to: its language, domain, or any group that a run is read by."""
