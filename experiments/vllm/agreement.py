"""How far two runs of the same pair agree, one in process and one on vLLM: a table.

    python experiments/vllm/agreement.py IN_PROCESS ON_VLLM > agreement.md

The first may hold more requests. Texts are compared token by token. vLLM takes a text's first
token from the prompt's pass, where this package's engine drafts already: for the same text its
steps are equal in number or one more, and it cannot accept that first token.
"""

import argparse
from collections import Counter, defaultdict
from pathlib import Path

from tabulate import tabulate

from lm_eval_specfair.records import Record, read_records


def generated(folder: Path) -> dict[str, Record]:
    return {
        record.request_id: record
        for record in read_records(folder)
        if record.request_type == "generate_until"
    }


def agreement(
    in_process: Path, on_vllm: Path
) -> tuple[dict[str, Counter[str]], Counter[str], Counter[int]]:
    """Counts of both runs.

    Returns:
        By language, of all requests, and, of requests with equal texts, how many take so many more
        steps on vLLM.
    """
    ours, theirs = generated(in_process), generated(on_vllm)
    if not theirs.keys() <= ours.keys():
        raise SystemExit("the run on vLLM has requests that the one in process lacks")

    rows: dict[str, Counter[str]] = defaultdict(Counter)
    differences: Counter[int] = Counter()
    for name, other in theirs.items():
        own = ours[name]
        equal = own.generated_token_ids == other.generated_token_ids
        for row in (rows[str(own.group_fields.get("language", ""))], rows["all"]):
            row["requests"] += 1
            row["equal"] += equal
            row["ends"] += own.finish_reason == other.finish_reason
            for who, record in (("ours", own), ("theirs", other)):
                row[f"{who}_steps"] += record.num_spec_steps or 0
                row[f"{who}_accepted"] += record.num_accepted_draft_tokens or 0
                row[f"{who}_examined"] += record.num_examined_draft_tokens or 0
        if equal:
            differences[(other.num_spec_steps or 0) - (own.num_spec_steps or 0)] += 1
    everything = rows.pop("all")
    return dict(sorted(rows.items())), everything, differences


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("ours", type=Path)
    parser.add_argument("theirs", type=Path)
    given = parser.parse_args()
    rows, everything, differences = agreement(given.ours, given.theirs)
    headers = ("language", "requests", "equal texts", "equal ends", "steps", "steps, vLLM")
    headers += ("accepted", "accepted, vLLM", "accepted / examined", "the same, vLLM")
    table = [
        (
            language,
            row["requests"],
            row["equal"],
            row["ends"],
            row["ours_steps"],
            row["theirs_steps"],
            row["ours_accepted"],
            row["theirs_accepted"],
            row["ours_accepted"] / max(1, row["ours_examined"]),
            row["theirs_accepted"] / max(1, row["theirs_examined"]),
        )
        for language, row in [*rows.items(), ("all", everything)]
    ]
    print(tabulate(table, headers, tablefmt="github", floatfmt=".3f"))
    print("\nOf requests with equal texts, by steps on vLLM less steps in process:\n")
    print(tabulate(sorted(differences.items()), ("difference", "requests"), tablefmt="github"))


if __name__ == "__main__":
    main()
