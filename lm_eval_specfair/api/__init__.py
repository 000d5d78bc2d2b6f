"""The Python API: runs, reports and comparisons as data frames, training and policies as calls.

    import lm_eval_specfair as sf

    report = sf.report("results/my-run", group_by="language")
    report.by_group["mean_acceptance_length"]      # a pandas Series
    report.verdict                                 # what the figures say, in sentences
    report.save("report")                          # the files of `specfair report -o`

Each function is the verb of its name (`specfair report`, ...) and raises `ConfigError` where the
verb ends with one line. Names are loaded when they are first used: importing the package imports
nothing else.
"""

from lm_eval_specfair.api.frames import LoadedRun, Report, RunComparison
from lm_eval_specfair.api.measure_verbs import coverage, import_logs, replay
from lm_eval_specfair.api.mend_verbs import fit, policy, prune
from lm_eval_specfair.api.read_verbs import compare, load_run, plan, report, trace, trend
from lm_eval_specfair.api.training_verbs import mixture, train
from lm_eval_specfair.api.trend_frames import RunTrend

__all__ = [
    "LoadedRun",
    "Report",
    "RunComparison",
    "RunTrend",
    "compare",
    "coverage",
    "fit",
    "import_logs",
    "load_run",
    "mixture",
    "plan",
    "policy",
    "prune",
    "replay",
    "report",
    "trace",
    "train",
    "trend",
]
