"""Records in, numbers out: metrics by group, their uncertainty, and disparity across groups.

Knows no models and no files, and never imports torch.
"""
