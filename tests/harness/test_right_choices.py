"""Which of a document's choices is right, in every way that lm-eval lets a task say it."""

from types import SimpleNamespace

import pytest

from lm_eval_specfair.harness.task_metadata import note_right_choices


def task_of(target, choices=("a", "b", "c"), *, multiple_input=False, output="multiple_choice"):
    instances = [SimpleNamespace(idx=place, doc={}) for place in range(2 * len(choices))]
    return SimpleNamespace(
        OUTPUT_TYPE=output,
        instances=instances,
        multiple_input=multiple_input,
        doc_to_choice=lambda doc: list(choices),
        doc_to_target=lambda doc: "the ending" if multiple_input else target,
        doc_to_text=lambda doc: target if multiple_input else "a question",
    )


@pytest.mark.parametrize(
    ("task", "right"),
    [
        (task_of(1), [1]),
        (task_of("c"), [2]),
        (task_of([0, 2]), [0, 2]),
        (task_of(0, multiple_input=True), [0]),
    ],
)
def test_right_choices_are_told_from_wrong_ones(task, right):
    note_right_choices(task)

    # lm-eval asks all choices once more without a context for mutual information: not these.
    assert [each.idx for each in task.instances if each.is_right_choice] == right
    assert all(each.is_right_choice is not None for each in task.instances)


@pytest.mark.parametrize("task", [task_of("elsewhere"), task_of(0, output="loglikelihood")])
def test_where_nothing_says_it_nothing_is_noted(task):
    note_right_choices(task)

    assert not any(hasattr(each, "is_right_choice") for each in task.instances)
