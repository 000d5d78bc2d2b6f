"""Groups of requests: by language, domain, or anything else that a run is read by."""
