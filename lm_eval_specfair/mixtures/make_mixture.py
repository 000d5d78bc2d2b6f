"""The job of `specfair mixture`: read runs and data, weigh, draw, write."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.files import write_file
from lm_eval_specfair.groups.assign import DEFAULT_MIN_REQUESTS
from lm_eval_specfair.groups.user_file import UserGroups
from lm_eval_specfair.mixtures.data_files import forms_of, write_data_set
from lm_eval_specfair.mixtures.mixture_file import read_mixture
from lm_eval_specfair.mixtures.next_shares import Mixture, build_mixture
from lm_eval_specfair.mixtures.text_rows import TextRow, read_rows
from lm_eval_specfair.mixtures.weighted_draw import WeightedDraw


@dataclass(frozen=True, kw_only=True, slots=True)
class MadeMixture:
    """A mixture, and the data set that was drawn by it, where data were named.

    Attributes:
        rows: The data that the set was drawn from.
        output: File for the mixture; None to write none.
        data_out: Folder for the data set; None to write none.
    """

    mixture: Mixture
    draw: WeightedDraw | None
    rows: Sequence[TextRow]
    seed: int
    output: Path | None
    data_out: Path | None

    @property
    def data_files(self) -> list[Path]:
        """The data set in each form that its rows have, written or about to be."""
        if self.draw is None or self.data_out is None:
            return []
        return [self.data_out / f"{name}.jsonl" for name in forms_of(self.rows, self.draw)]

    def write(self) -> list[Path]:
        """Write what is to be written, the mixture last; its files.

        Raises:
            ConfigError: If a place cannot be written.
        """
        files = []
        if self.data_out is not None and self.draw is not None and self.mixture.data is not None:
            files += write_data_set(
                self.data_out,
                self.rows,
                self.draw,
                seed=self.seed,
                unit=self.mixture.data.unit,
                shares=self.mixture.data_shares,
            )
        if self.output is not None:
            files.append(write_file(self.output, self.mixture.file.to_json()))
        return files


def make_mixture(
    run_dirs: Sequence[Path],
    *,
    weighting: str = "s-cdf",
    former: Path | None = None,
    data: Sequence[Path] = (),
    data_out: Path | None = None,
    data_size: float | None = None,
    seed: int = 0,
    tokenizer: str | None = None,
    group_by: str = "language",
    mapping: UserGroups | None = None,
    min_requests: int = DEFAULT_MIN_REQUESTS,
    output: Path | None = None,
) -> MadeMixture:
    """Weigh groups by what runs measured of them, and draw data by it; nothing is written yet.

    Arguments are as of `api.mixture`; `mapping` are the user's own groups.

    Raises:
        ConfigError: If an argument, a run or the data go wrong.
    """
    if data_out is not None and not data:
        raise ConfigError("--data-out needs the data that are drawn from: name them with --data")
    if tokenizer is not None and not data:
        raise ConfigError("--tokenizer counts the tokens of --data, and no data were named")
    if data_out is not None and data_out.is_dir() and any(data_out.iterdir()):
        raise ConfigError(f"--data-out must be a new or empty folder, got {data_out}")
    rows = read_rows(data, group_by, mapping) if data else []
    mixture = build_mixture(
        run_dirs,
        weighting=weighting,
        former=None if former is None else read_mixture(former),
        rows=rows,
        encode=None if tokenizer is None else _encoder(tokenizer),
        group_by=group_by,
        mapping=mapping,
        min_requests=min_requests,
    )
    return MadeMixture(
        mixture=mixture,
        draw=mixture.draw(rows, size=data_size, seed=seed) if rows else None,
        rows=rows,
        seed=seed,
        output=output,
        data_out=data_out,
    )


def _encoder(name: str) -> Callable[[str], Sequence[int]]:
    # Only here: weights need neither torch nor models.
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"cannot load the tokenizer {name!r} ({reason:.160})") from error

    def encode(text: str) -> Sequence[int]:
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False, verbose=False)
        return ids

    return encode
