"""Records in, numbers out: groups, figures, their uncertainty, and disparity across groups.

Knows no models and no files, and never imports torch.
"""
