"""The servers' protocols: what is asked, and what is read from an answer; one module for each."""

from lm_eval_specfair.serving.protocols.llamacpp_protocol import LlamaCppProtocol
from lm_eval_specfair.serving.protocols.protocol import (
    BrokenAnswerError,
    Piece,
    Protocol,
    ServedRequest,
)
from lm_eval_specfair.serving.protocols.sglang_protocol import SglangProtocol
from lm_eval_specfair.serving.protocols.vllm_protocol import VllmProtocol

PROTOCOLS: dict[str, Protocol] = {
    each.name: each for each in (VllmProtocol(), SglangProtocol(), LlamaCppProtocol())
}
"""By the name that `api=` takes."""

__all__ = ["PROTOCOLS", "BrokenAnswerError", "Piece", "Protocol", "ServedRequest"]
