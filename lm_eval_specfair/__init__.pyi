from lm_eval_specfair.api import (
    LoadedRun,
    Report,
    RunComparison,
    compare,
    import_logs,
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
    "import_logs",
    "load_run",
    "plan",
    "policy",
    "replay",
    "report",
    "train",
]

__version__: str
