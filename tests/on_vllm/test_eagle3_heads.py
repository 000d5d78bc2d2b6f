"""EAGLE-3 heads beside speculators' own class, and served by vLLM (make test-vllm)."""

import importlib.util

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from lm_eval_specfair.conformance.tiny_heads import trained_head
from lm_eval_specfair.conformance.tiny_models import byte_tokenizer, llama
from lm_eval_specfair.decoding.heads.head_folder import fit_to, read_head, write_head

from support.decoding_runs import decode, transformers_greedy
from support.decoding_runs import request as asked
from support.evaluations import answers, generation, records_of
from support.tiny_heads import features_of, head_drafter, tiny_head

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # vLLM's and speculators' own
    pytest.mark.timeout(900),
]
needs_speculators = pytest.mark.skipif(
    importlib.util.find_spec("speculators") is None, reason="speculators is not installed here"
)
needs_vllm = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="vLLM is not installed here"
)
LAYERS, DRAFTED, STEPS = (1, 2, 4), tuple(range(0, 260, 2)), 3
KINDS = {
    "all tokens": {},
    "pruned": {"drafted": DRAFTED},
    "norm_before_residual": {"drafted": DRAFTED, "norm_before_residual": True},
    "norm_before_fc": {"norm_before_fc": True},
    "fc_norm, norm_output": {"fc_norm": True, "norm_output": True},
    "two layers": {"layer": {"num_hidden_layers": 2}},
}


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    folder = tmp_path_factory.mktemp("target")
    model = llama(0, layers=5)
    model.save_pretrained(folder)
    return AutoModelForCausalLM.from_pretrained(folder)


def theirs_from(folder):
    """A head's folder in speculators' own class."""
    from speculators.models.eagle3 import Eagle3DraftModel, Eagle3SpeculatorConfig

    config = Eagle3SpeculatorConfig.from_pretrained(folder)
    config.transformer_layer_config._attn_implementation = "eager"
    return Eagle3DraftModel.from_pretrained(folder, config=config).eval()


def text(length=11):
    return torch.randint(260, (1, length), generator=torch.Generator().manual_seed(5))


def their_scores(model, tokens, features):
    """What their training pass scores at each step, at the places that have a token."""
    scores = []
    hook = model.lm_head.register_forward_hook(lambda _m, _i, output: scores.append(output))
    with torch.no_grad():
        model(
            hidden_states=features[:, :-1],
            input_ids=tokens[:, 1:],
            document_ids=torch.zeros_like(tokens[:, 1:]),
            ttt_steps=STEPS,
        )
    hook.remove()
    length = tokens.shape[1]
    return [each[:, : length - 1 - step] for step, each in enumerate(scores)]


def our_scores(head, tokens, features):
    with torch.no_grad():
        return [head.lm_head(step) for step in head(tokens, features, STEPS)]


def assert_alike(ours, theirs):
    assert len(ours) == len(theirs) == STEPS
    for one, other in zip(ours, theirs, strict=True):
        assert one.shape == other.shape
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@needs_speculators
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("own_embedding", [True, False], ids=["own embedding", "the target's"])
def test_our_folders_score_alike_in_speculators(target, tmp_path, kind, own_embedding):
    head = tiny_head(
        target.config, feature_layers=LAYERS, own_embedding=own_embedding, **KINDS[kind]
    )
    if not own_embedding:
        head.read_embedding_of(target.get_input_embeddings().weight)
    write_head(head, tmp_path / "head")
    again = read_head(tmp_path / "head")
    fit_to(again, target, "head")
    assert (again.embed_tokens is not None) == own_embedding
    tokens = text()
    features = features_of(target, tokens, LAYERS)
    theirs = theirs_from(tmp_path / "head")
    assert_alike(our_scores(head, tokens, features), their_scores(theirs, tokens, features))


@needs_speculators
@pytest.mark.parametrize("family", ["llama", "qwen3"])
@pytest.mark.parametrize("pruned", [False, True])
def test_their_folders_score_alike_here(target, tmp_path, family, pruned):
    from speculators.config import SpeculatorsConfig, VerifierConfig
    from speculators.models.eagle3 import Eagle3DraftModel, Eagle3SpeculatorConfig
    from speculators.proposals.greedy import GreedyTokenProposalConfig

    size = target.config.hidden_size
    layer = AutoConfig.for_model(
        family, vocab_size=260, hidden_size=size, intermediate_size=96, num_hidden_layers=1,
        num_attention_heads=4, num_key_value_heads=2, head_dim=16,
    )  # fmt: skip
    layer._attn_implementation = "eager"
    config = Eagle3SpeculatorConfig(
        transformer_layer_config=layer,
        draft_vocab_size=len(DRAFTED) if pruned else 260,
        eagle_aux_hidden_state_layer_ids=list(LAYERS),
        speculators_config=SpeculatorsConfig(
            algorithm="eagle3",
            proposal_methods=[GreedyTokenProposalConfig(speculative_tokens=STEPS)],
            default_proposal_method="greedy",
            verifier=VerifierConfig.from_pretrained(target.name_or_path),
        ),
    )
    torch.manual_seed(2)
    model = Eagle3DraftModel(config=config)
    if pruned:
        ids = torch.tensor(DRAFTED)
        mask = torch.zeros(260, dtype=torch.bool)
        mask[ids] = True
        model.load_vocab_mappings(mask, ids - torch.arange(len(ids)))
    model.load_verifier_weights()
    for weight in model.parameters():
        weight.data += torch.randn_like(weight) * 0.05
    model.save_pretrained(tmp_path / "head")
    head = read_head(tmp_path / "head")
    tokens = text()
    features = features_of(target, tokens, LAYERS)
    assert_alike(our_scores(head, tokens, features), their_scores(model.eval(), tokens, features))
    if pruned:
        assert head.target_ids.tolist() == list(DRAFTED)


# Served

PROMPTS = ("abcabc", "Zur Zeit", "q", "the end of the end of the", "0101 0101")
REQUESTS = [generation(prompt, n, max_gen_toks=24) for n, prompt in enumerate(PROMPTS)]


@pytest.fixture(scope="module", params=[None, DRAFTED], ids=["all tokens", "pruned"])
def served(request, tmp_path_factory):
    """A target on disk, and a head that it keeps some drafts of."""
    folder = tmp_path_factory.mktemp("served")
    target = llama(
        7, layers=4, hidden_size=128, num_attention_heads=4, head_dim=32,
        max_position_embeddings=128,
    )  # fmt: skip
    prompts = [byte_tokenizer().encode(prompt) for prompt in PROMPTS]
    texts = [[*each, *transformers_greedy(target, each, 24)] for each in prompts]
    windows = [text[i : i + 12] for text in texts for i in range(len(text) - 11)]
    head = trained_head(
        target, (1, 2, 3), steps=120, texts=torch.tensor(windows), drafted=request.param
    )
    target.save_pretrained(folder / "target")
    byte_tokenizer().save_pretrained(folder / "target")
    write_head(head, folder / "head")
    return folder


def run(served, folder, **given):
    from lm_eval_specfair.harness.model import SpecFairLM

    model = SpecFairLM(
        str(served / "target"), drafter=str(served / "head"), records_dir=str(folder), baseline=0,
        batch_size=3, device="cpu", num_speculative_tokens=3, **given,
    )  # fmt: skip
    texts = answers(model, list(REQUESTS))
    if "backend" in given:
        model._decoder.close()
    return texts, {record.doc_id: record for record in records_of(folder).values()}


@needs_vllm
def test_vllm_serves_our_folder_with_the_same_texts_and_counts(served, tmp_path, monkeypatch):
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "ERROR")
    texts, ours = run(served, tmp_path / "ours")
    their_texts, theirs = run(
        served, tmp_path / "theirs", backend="vllm", enforce_eager=True,
        speculative_config={"method": "eagle3"},
    )  # fmt: skip
    assert texts == their_texts
    assert sum(each.num_accepted_draft_tokens for each in ours.values()) > 5
    # vLLM's first token comes from the prompt's pass. Behind it, its steps are ours from there on.
    target = AutoModelForCausalLM.from_pretrained(served / "target")
    head = read_head(served / "head")
    fit_to(head, target, "head")
    tokenizer = byte_tokenizer()
    for number, one in theirs.items():
        assert ours[number].generated_token_ids == one.generated_token_ids
        prompt = tokenizer.encode(PROMPTS[number])
        start = asked([*prompt, one.generated_token_ids[0]], len(one.generated_token_ids) - 1)
        [aligned] = decode(target, head_drafter(head, target), [start], num_speculative_tokens=3)
        assert aligned.token_ids == one.generated_token_ids[1:]
        # The prompt's pass is listed first; a prompt of one token joins the others, padded.
        assert (one.drafted_per_step[0], one.accepted_per_step[0]) == (0, 0)
        assert aligned.counters.accepted_per_step == one.accepted_per_step[1:]
        assert sum(aligned.counters.accepted_per_step) == one.num_accepted_draft_tokens
