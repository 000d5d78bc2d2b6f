from lm_eval_specfair.api import (
    LoadedRun,
    Report,
    RunComparison,
    compare,
    load_run,
    policy,
    report,
)

__all__ = [
    "LoadedRun",
    "Report",
    "RunComparison",
    "__version__",
    "compare",
    "load_run",
    "policy",
    "report",
]

__version__: str
