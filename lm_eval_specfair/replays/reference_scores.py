"""References, read by target and drafters: how near the two are along text that neither wrote.

Each position has the reference before it (teacher forcing), so nothing is drafted or kept and no
loop of the target's can flatter a drafter. The records are those of log-likelihood requests.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch

from lm_eval_specfair.decoding.acceptance import most_likely
from lm_eval_specfair.decoding.counters import RequestCounters
from lm_eval_specfair.decoding.drafters import fit_vocabulary
from lm_eval_specfair.divergence import TargetDistribution
from lm_eval_specfair.records import Record
from lm_eval_specfair.replays.known_text import KnownText
from lm_eval_specfair.replays.passes.one_pass import TextReader
from lm_eval_specfair.replays.passes.text_batches import batches
from lm_eval_specfair.text_lines import num_bytes

# Of each position: overlap, cross-entropy, entropy, log p and log q of the reference's token (all
# in nats), and whether both models' most likely token is one, and the target's is the reference's.
_NUM_TERMS = 7


def reference_records(
    texts: Sequence[KnownText],
    drafters: Mapping[str, TextReader],
    target: TextReader,
    *,
    progress: Callable[[int], object] = lambda tokens: None,
) -> Iterator[tuple[str, Record]]:
    """The record of each drafter on each text; drafters have the target's tokenizer."""
    readers = [target, *drafters.values()]
    for batch in batches(texts, readers):
        ends = np.cumsum([len(text.response) for text in batch.texts])
        terms = {name: np.zeros((_NUM_TERMS, ends[-1])) for name in drafters}
        tokens = torch.tensor([token for text in batch.texts for token in text.response])
        of_target = target.read(batch, to_its_end=True)
        readings = {name: reader.read(batch) for name, reader in drafters.items()}
        width = min(reader.positions_at_once for reader in readers)
        with torch.inference_mode():
            for start in range(0, len(tokens), width):
                places = slice(start, min(start + width, len(tokens)))
                scores = of_target.scores(places)
                chosen = tokens[places, None].to(scores.device)
                p, best = TargetDistribution(scores), most_likely(scores)
                log_p = scores.log_softmax(-1).gather(1, chosen)[:, 0]
                for name, reading in readings.items():
                    q = fit_vocabulary(reading.scores(places), scores.shape[1]).to(scores.dtype)
                    found = (
                        *p.divergences(q),
                        log_p,
                        q.log_softmax(-1).gather(1, chosen)[:, 0],
                        most_likely(q) == best,
                        best == chosen[:, 0],
                    )
                    stacked = torch.stack([one.double() for one in found])
                    terms[name][:, places] = stacked.cpu().numpy()
        for number, text in enumerate(batch.texts):
            own = slice(ends[number] - len(text.response), ends[number])
            for name, of_drafter in terms.items():
                is_read = text.num_read <= drafters[name].max_length
                yield name, _record(text, of_drafter[:, own], is_read=is_read)
        progress(len(tokens))


def _record(text: KnownText, terms: np.ndarray, *, is_read: bool) -> Record:
    """Of one drafter on one text; without its terms where the text is longer than it can read."""
    counters = RequestCounters()
    for overlap, cross_entropy, entropy in terms[:3].T.tolist():
        counters.add_position(overlap, cross_entropy, entropy)
    log_p, log_q, agreeing, greedy = terms[3:]
    return Record(
        request_id=text.request_id,
        task=text.task,
        doc_id=text.doc_id,
        request_type="loglikelihood",
        group_fields=text.group_fields,
        num_prompt_tokens=len(text.prompt),
        **counters.distribution_fields(measured=is_read),
        target_nll_sum=-float(log_p.sum()),
        drafter_nll_sum=-float(log_q.sum()) if is_read else None,
        num_scored_tokens=len(text.response),
        num_scored_bytes=num_bytes(text.text),
        target_reference_probability_sum=float(np.exp(log_p).sum()) if is_read else None,
        drafter_reference_probability_sum=float(np.exp(log_q).sum()) if is_read else None,
        num_agreeing_positions=int(agreeing.sum()) if is_read else None,
        is_greedy=bool(greedy.all()),
    )
