"""Arms side by side: counts of the same documents, resampled together; figures, claims, plot.

Intervals come from documents drawn with replacement, the same for all arms, and from seeds drawn
with replacement; so they hold the differences between seeds too.
"""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats
from tabulate import tabulate

from lm_eval_specfair.metrics.arrays import mean_of_known
from lm_eval_specfair.metrics.statistics.inequality import coefficient_of_variation, ratio
from lm_eval_specfair.metrics.statistics.intervals import percentile_interval

Array = npt.NDArray[np.float64]

COUNTS = ("steps", "accepted", "overlap", "kl", "positions", "tokens", "bytes")
NUM_RESAMPLES, NUM_SLOWEST = 2000, 5
SHOWN = {
    "unfairness_kl": "U on KL",
    "unfairness_kl_byte": "U on KL per byte",
    "unfairness_speedup": "U on speed-up",
    "ratio_speedup": "ratio of speed-up",
    "variation_speedup": "variation of speed-up",
    "mean_speedup": "mean speed-up",
    "worst_speedup": "worst speed-up",
    "worst_bytes": "worst bytes/step",
    "dominant_overlap": "{dominant} overlap",
}
NOISY = ("unfairness_kl", "unfairness_kl_byte", "unfairness_speedup")


def by_language(sums: Array, step_cost: float) -> dict[str, Array]:
    """Figures of each language, from sums of shape (..., languages, len(COUNTS))."""
    of = {name: sums[..., place] for place, name in enumerate(COUNTS)}
    with np.errstate(divide="ignore", invalid="ignore"):
        kl = of["kl"] / of["positions"]
        return {
            "kl": kl,
            "kl_byte": kl * of["tokens"] / of["bytes"],
            "overlap": of["overlap"] / of["positions"],
            "speedup": (1 + of["accepted"] / of["steps"]) / step_cost,
            "bytes": of["bytes"] / of["steps"],
        }


def across(of: dict[str, Array], dominant: int) -> dict[str, Array]:
    """Statistics over languages, the last axis."""
    speedup = of["speedup"]
    return {
        "unfairness_kl": of["kl"].var(-1),
        "unfairness_kl_byte": of["kl_byte"].var(-1),
        "unfairness_speedup": speedup.var(-1),
        "mean_kl": of["kl"].mean(-1),
        "mean_speedup": speedup.mean(-1),
        "worst_speedup": speedup.min(-1),
        "worst_bytes": of["bytes"].min(-1),
        "ratio_speedup": ratio(speedup),
        "variation_speedup": coefficient_of_variation(speedup),
        "dominant_overlap": of["overlap"][..., dominant],
        "dominant_speedup": speedup[..., dominant],
    }


class Comparison:
    """All arms of one suite.

    An untrained start has one seed, which stands for all.
    """

    def __init__(
        self, counts: dict[str, Array], languages: list[str], step_cost: float, dominant: str
    ) -> None:
        """Compare.

        Args:
            counts: By arm, shape (seeds, documents, languages, len(COUNTS)); the n-th document of
                two languages need not be translations.
            languages: Their codes.
            step_cost: Time of a speculative step over that of a plain one; one for all arms, which
                share one architecture.
            dominant: Code of the language that must not pay.
        """
        self.counts, self.languages, self.step_cost = counts, languages, step_cost
        self.dominant = languages.index(dominant)
        generator = np.random.default_rng(0)
        documents = next(iter(counts.values())).shape[1]
        drawn = generator.integers(documents, size=(NUM_RESAMPLES, documents))
        times = [np.bincount(row, minlength=documents) for row in drawn]
        self._times = np.stack(times).astype(float)
        most = max(each.shape[0] for each in counts.values())
        self._seeds = generator.integers(most, size=(NUM_RESAMPLES, most))
        self._found: dict[str, tuple[dict[str, float], dict[str, Array]]] = {}

    def of(self, arm: str) -> tuple[dict[str, float], dict[str, Array]]:
        """An arm's figures, means over its seeds, and the resampled ones, shape (resamples,)."""
        if arm not in self._found:
            each = self.counts[arm]
            values = by_language(each.sum(1), self.step_cost)
            drawn = by_language(np.einsum("rd,sdlc->rslc", self._times, each), self.step_cost)
            observed, resampled = across(values, self.dominant), across(drawn, self.dominant)
            for name in NOISY:
                signal = name.removeprefix("unfairness_")
                # What noise adds to a variance (metrics.disparity.noise_between_groups, which has a
                # small-sample factor too): once in the observed value, twice in the resampled ones.
                noise = mean_of_known((drawn[signal] - values[signal]).var(-1))
                observed[name] = np.maximum(observed[name] - noise, 0)
                resampled[name] = np.maximum(resampled[name] - 2 * noise, 0)
            rows = np.arange(NUM_RESAMPLES)[:, None]
            picked = {k: v[rows, self._seeds % len(each)].mean(1) for k, v in resampled.items()}
            self._found[arm] = {k: float(v.mean()) for k, v in observed.items()}, picked
        return self._found[arm]

    def change(self, arm: str, reference: str, name: str) -> dict[str, float | None]:
        """Relative change of a figure, with its 95% interval; None where it is not defined.

        A corrected U of the reference can be 0, in truth or in too many of the resamples.
        """
        (ours, our_draws), (theirs, their_draws) = self.of(arm), self.of(reference)
        with np.errstate(divide="ignore", invalid="ignore"):
            draws = our_draws[name] / their_draws[name] - 1
            value = float(np.divide(ours[name], theirs[name])) - 1
        low, high = percentile_interval(draws, len(self._times[0])) or (None, None)
        return {"value": value if np.isfinite(value) else None, "low": low, "high": high}

    def claims(self, arm: str) -> dict[str, bool]:
        """The five parts of the claim, each as it is judged; needs `start`, `mix`, `balanced`.

        (a) U on KL at least 60% below the start's and 30% below `mix`'s; (b) the worst speed-up at
        least 10% above `mix`'s, the interval above 0; (c) the mean not below `mix`'s; (d) the
        dominant language's overlap at least 97% of `mix`'s; (e) better than `balanced` on U or the
        worst speed-up, and not worse on the mean.
        """

        def change(reference: str, name: str, bound: str = "value") -> float:
            found = self.change(arm, reference, name)[bound]
            return np.nan if found is None else found  # what is not defined proves nothing

        fairer = change("balanced", "unfairness_kl") < 0
        faster = change("balanced", "worst_speedup") > 0
        return {
            "a": change("start", "unfairness_kl") <= -0.6
            and change("mix", "unfairness_kl") <= -0.3,
            "b": change("mix", "worst_speedup") >= 0.1
            and change("mix", "worst_speedup", "low") > 0,
            "c": change("mix", "mean_speedup") >= 0,
            "d": change("mix", "dominant_overlap") >= -0.03,
            "e": (fairer or faster) and change("balanced", "mean_speedup") >= 0,
        }

    def _pooled(self, counts: Array) -> dict[str, Array]:
        """Figures of each language, over all seeds and documents of an arm."""
        return by_language(counts.sum((0, 1)), self.step_cost)

    @property
    def references(self) -> list[str]:
        """Arms that others are compared with."""
        return [name for name in ("start", "mix", "balanced") if name in self.counts]

    def described(self) -> dict[str, Any]:
        """All figures, as JSON."""
        arms = {}
        for arm, each in self.counts.items():
            values = self._pooled(each)
            per_language = {
                code: {name: float(x[place]) for name, x in values.items()}
                for place, code in enumerate(self.languages)
            }
            slowest = {
                name: self.languages[int(np.argmin(values[name]))] for name in ("speedup", "bytes")
            }
            arms[arm] = {
                "seeds": len(each),
                "figures": self.of(arm)[0],
                "worst_language": slowest,
                "languages": per_language,
                "changes": {
                    reference: {name: self.change(arm, reference, name) for name in self.of(arm)[0]}
                    for reference in self.references
                },
            }
            if len(self.references) == 3:
                arms[arm]["claims"] = self.claims(arm)
        return arms

    def table(self, reference: str) -> str:
        """Changes against a reference, in per cent with intervals."""
        rows = []
        for arm, each in self.counts.items():
            cells = [arm, str(len(each))]
            for name in SHOWN:
                cells.append(change_cell(self.change(arm, reference, name)))
            claims = self.claims(arm) if len(self.references) == 3 else {}
            cells.append(" ".join(name for name, holds in claims.items() if holds))
            rows.append(cells)
        shown = [text.format(dominant=self.languages[self.dominant]) for text in SHOWN.values()]
        header = ["arm", "seeds", *shown, "claims that hold"]
        return tabulate(rows, header, tablefmt="github")

    def order(self) -> str:
        """Who is slowest in tokens a step and in bytes a step, and how alike the orders are."""
        rows = []
        for arm, each in self.counts.items():
            values = self._pooled(each)
            slowest = [
                ", ".join(self.languages[place] for place in np.argsort(values[name])[:NUM_SLOWEST])
                for name in ("speedup", "bytes")
            ]
            alike = stats.spearmanr(values["speedup"], values["bytes"]).statistic
            rows.append([arm, *slowest, f"{alike:.2f}"])
        header = ["arm", "slowest in tokens", "slowest in bytes", "Spearman's rho of the orders"]
        return tabulate(rows, header, tablefmt="github", disable_numparse=True)


def tokens_a_step(counts: Array) -> Array:
    """Of each language, over all seeds and documents of an arm: shape (languages,)."""
    return by_language(counts.sum((0, 1)), 1.0)["speedup"]


def change_cell(change: dict[str, float | None]) -> str:
    """A change in per cent, with its interval."""
    value, low, high = (change[key] for key in ("value", "low", "high"))
    if value is None:
        return "not defined"
    interval = "" if low is None or high is None else f" [{100 * low:+.1f}, {100 * high:+.1f}]"
    return f"{100 * value:+.1f}%{interval}"


def pareto(comparison: Comparison, path: Path) -> None:
    """Plot mean against worst speed-up; large marks where no other arm is better in both."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    axes_of = ("mean_speedup", "worst_speedup")
    figure, axes = plt.subplots(figsize=(9, 6), layout="constrained")
    points = {arm: [comparison.of(arm)[0][name] for name in axes_of] for arm in comparison.counts}
    for (arm, point), (marker, colour) in zip(
        points.items(), itertools.product("osD^vP", plt.colormaps["tab10"].colors), strict=False
    ):
        draws = comparison.of(arm)[1]
        spread = [
            np.abs(np.nanquantile(draws[name], [0.025, 0.975]) - value)[:, None]
            for name, value in zip(axes_of, point, strict=True)
        ]
        is_best = not any(
            x >= point[0] and y >= point[1] and [x, y] != point for x, y in points.values()
        )
        # Marks over bars: arms lie close together, and their documents are the same.
        bars = {"xerr": spread[0], "yerr": spread[1], "fmt": "none", "ecolor": colour}
        axes.errorbar(*point, **bars, alpha=0.3, elinewidth=0.6, zorder=1)
        size = 90 if is_best else 25
        axes.scatter(*point, s=size, marker=marker, color=colour, label=arm, zorder=2)
    axes.set_xlabel("mean modelled speed-up over languages")
    axes.set_ylabel("worst language's modelled speed-up")
    axes.set_title("Large marks: no other arm is better in both (95% intervals)")
    figure.legend(loc="outside right upper", fontsize=8)
    figure.savefig(path, dpi=150)
    plt.close(figure)
