"""Requests drawn by group: every beginning of the order covers the groups."""

import pytest

from lm_eval_specfair.config import DecodeConfig
from lm_eval_specfair.decoding.completion import Request
from lm_eval_specfair.decoding.stopping import Stopping
from lm_eval_specfair.harness.jobs.group_draw import drawn
from lm_eval_specfair.harness.jobs.paired_decoder import WINDOW_A_ROW, PairedDecoder
from lm_eval_specfair.harness.requests import Job

from support.evaluations import answers, generation, records_of, specfair

LANGUAGES = ("ar", "bn", "cs", "de", "en")


def job(number, document):
    """Prompts of one language are longer than those of another, as with their tokens."""
    instance = generation("", number, task="mixed")
    instance.doc = document
    return Job(
        place=number,
        instance=instance,
        request=Request(
            request_id=f"mixed/{number}/0/0/0",
            prompt=[1] * (5 + number // 10),
            stopping=Stopping(max_new_tokens=4),
        ),
        config=DecodeConfig(),
        is_padding=False,
    )


@pytest.fixture
def sorted_by_language():
    """Fifty documents, ten of each language, all of one language together; two domains in each."""
    documents = [
        {"language": language, "domain": "news" if number < 8 else "law"}
        for language in LANGUAGES
        for number in range(10)
    ]
    return [job(number, document) for number, document in enumerate(documents)]


@pytest.mark.parametrize("number", [1, 3, 5, 8, 10, 20])
def test_every_beginning_covers_the_groups_evenly(sorted_by_language, number):
    first = drawn(sorted_by_language, 0)[:number]

    counts = [sum(job.instance.doc["language"] == name for job in first) for name in LANGUAGES]
    assert max(counts) - min(counts) <= 1
    if number >= 10:  # and, within each language, both domains
        assert len({tuple(job.instance.doc.values()) for job in first}) == 10


def test_it_depends_on_the_seed_and_the_requests_alone(sorted_by_language):
    order = [job.place for job in drawn(sorted_by_language, 0)]

    assert sorted(order) == list(range(50))
    assert [job.place for job in drawn(sorted_by_language[::-1], 0)] == order
    assert [job.place for job in drawn(sorted_by_language, 1)] != order


class OneByOne:
    drafts, max_rows, states = True, 2, None

    def __init__(self):
        self.seen = []

    def decode(self, requests, config, *, plain=False):
        self.seen += requests
        return iter(())


def test_a_run_that_is_killed_has_all_groups(sorted_by_language):
    decoder = OneByOne()
    list(PairedDecoder(decoder, lambda task: 0).decode(sorted_by_language))
    size = 2 * WINDOW_A_ROW
    seen = [int(request.request_id.split("/")[1]) // 10 for request in decoder.seen]

    for first in range(0, 48, size):
        assert set(seen[first : first + size]) == set(range(5))
        lengths = [len(request.prompt) for request in decoder.seen[first : first + size]]
        assert lengths == sorted(lengths, reverse=True)


def test_baselines_are_drawn_from_all_languages(pair_folder, tmp_path):
    requests = [generation(f"Text {n}.", n, task="mixed", max_gen_toks=2) for n in range(20)]
    for number, request in enumerate(requests):
        request.doc["language"] = LANGUAGES[number // 4]

    answers(specfair(pair_folder, tmp_path / "run", baseline=5), requests)

    paired = [each for each in records_of(tmp_path / "run").values() if each.baseline_seconds]
    assert sorted(each.group_fields["language"] for each in paired) == sorted(LANGUAGES)
