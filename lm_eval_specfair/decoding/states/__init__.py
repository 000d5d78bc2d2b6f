"""Recurrent states of a batch's rows: kept by position, so that a row can be rolled back."""
