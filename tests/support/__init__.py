"""What several tests share: tiny models, synthetic records, whole runs."""
