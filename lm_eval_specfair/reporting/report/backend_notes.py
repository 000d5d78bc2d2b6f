"""What a reader must know of runs that another engine decoded."""

from collections.abc import Mapping
from typing import Any

_FLAGS = {
    "lossy": "Not lossless, by its settings ({}): the texts need not be the target's.",
    "adaptive": "The draft length was not held constant ({}): it follows load or confidence.",
    "other_rule": "Drafts were chosen or accepted by another rule ({}): their acceptance is not an "
    "estimate of the overlap of the two distributions.",
}


def backend_notes(run: Mapping[str, Any]) -> list[str]:
    """Sentences about vLLM's conventions and about settings that change what the figures mean.

    Args:
        run: A run's description, or what several runs share, as a summary has it.
    """
    every = _settings(run)
    on_vllm = [each for each in every if each.get("backend") == "vllm"]
    if not on_vllm:
        return []
    notes = [
        "Decoded by vLLM: a text's first token comes from the prompt's pass and counts as a step "
        "without drafts; time is a step's, shared by its requests; drafting and verifying are not "
        "told apart, so that a step's cost is known as a whole only."
    ]
    for kind, sentence in _FLAGS.items():
        said = {
            " ".join(str(word).split())
            for each in on_vllm
            for word in (each.get("flags") or {}).get(kind, ())
        }
        if said:
            notes.append(sentence.format(", ".join(sorted(said))))
    return notes


def _settings(run: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    differing = run.get("differing") or {}
    found = [run.get("settings"), *(differing.get("settings") or ())]
    return [each for each in found if isinstance(each, dict)]
