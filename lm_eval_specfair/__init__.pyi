from lm_eval_specfair.api import (
    LoadedRun,
    Report,
    RunComparison,
    compare,
    load_run,
    plan,
    policy,
    replay,
    report,
    train,
)

__all__ = [
    "LoadedRun",
    "Report",
    "RunComparison",
    "__version__",
    "compare",
    "load_run",
    "plan",
    "policy",
    "replay",
    "report",
    "train",
]

__version__: str
