"""A draw of jobs that goes round the groups, so that a few of them stand for all."""

import hashlib
from collections.abc import Callable, Hashable, Sequence

from lm_eval_specfair.groups.assign import group_of
from lm_eval_specfair.harness import task_metadata
from lm_eval_specfair.harness.requests import Job, group_fields

Key = Callable[[Job], Hashable]


def drawn(jobs: Sequence[Job], seed: int) -> list[Job]:
    """Jobs in an order of which every beginning covers the groups as evenly as it can.

    It goes round the languages, within a language round what else the documents say of themselves
    (domain, subject, ...), and within that it is random. It depends on the seed and on the requests
    alone: two runs that ask the same draw the same.
    """
    return _round_robin(list(jobs), (language, _fields), seed)


def language(job: Job) -> str:
    """The job's language, as far as its document or its task says."""
    facts = task_metadata.facts(job.task)
    return group_of(facts, group_fields(job.instance.doc), "language")


def _fields(job: Job) -> Hashable:
    return repr(sorted(group_fields(job.instance.doc).items()))


def _round_robin(jobs: list[Job], keys: Sequence[Key], seed: int) -> list[Job]:
    if not keys:
        return sorted(jobs, key=lambda job: _chance(seed, job.request.request_id))
    parts: dict[Hashable, list[Job]] = {}
    for job in jobs:
        parts.setdefault(keys[0](job), []).append(job)
    order = sorted(parts, key=lambda part: _chance(seed, str(part)))
    rounds = [_round_robin(parts[part], keys[1:], seed) for part in order]
    longest = max(map(len, rounds), default=0)
    return [part[place] for place in range(longest) for part in rounds if place < len(part)]


def _chance(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}\0{name}".encode(errors="surrogatepass")).digest()
