"""The multilingual suites of `task_configs/`: where their rows come from, how answers are scored.

What YAMLs name is `task.SuiteTask` and the functions of `answers`; the rest serves them. No torch.
"""
