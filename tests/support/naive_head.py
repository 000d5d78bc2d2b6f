"""An EAGLE-3 head written a second time, from its definition: numpy, fp64, no cache, no batch.

Everything is computed anew for each drafted token.
"""

import math

import numpy as np


def naive_scores(head, tokens, features, drafted=()):
    """Scores over the head's vocabulary after a chain of drafted tokens.

    Args:
        head: An `Eagle3Head` with an embedding, read for its weights and settings alone.
        tokens: The kept ones, n of them.
        features: The target's after all of them but the last, shape (n - 1, width).
        drafted: The tokens drafted after these.
    """
    weights = {name: each.detach().double().numpy() for name, each in head.named_parameters()}
    config, layer = head.config, head.config.layer
    embedding = weights.get("embed_tokens.weight")
    if embedding is None:
        embedding = head._embedding[0].double().numpy()
    hidden = [_combine(weights, config, each) for each in np.asarray(features, np.float64)]
    read = list(tokens[1:])
    for token in drafted:
        *_, last = _outputs(weights, config, layer, embedding, read, hidden)
        if config.norm_output:
            last = _norm(last, weights["norm.weight"], layer)
        hidden.append(last)
        read.append(token)
    *_, last = _outputs(weights, config, layer, embedding, read, hidden)
    return weights["lm_head.weight"] @ _norm(last, weights["norm.weight"], layer)


def _norm(values, weight, layer):
    return values / np.sqrt((values**2).mean(-1, keepdims=True) + layer.rms_norm_eps) * weight


def _combine(weights, config, features):
    layer, number = config.layer, len(config.feature_layers)
    if config.norm_before_fc:
        features = _norm(features, weights["input_norm.weight"], layer)
    if config.fc_norm:
        parts = np.split(features, number)
        features = np.concatenate(
            [_norm(part, weights[f"fc_norm.{i}.weight"], layer) for i, part in enumerate(parts)]
        )
    return weights["fc.weight"] @ features


def _outputs(weights, config, layer, embedding, read, hidden):
    """What the layers leave at each entry."""
    states = list(hidden)
    for number in range(layer.num_hidden_layers):
        own = {
            name.removeprefix(f"layers.{number}."): each
            for name, each in weights.items()
            if name.startswith(f"layers.{number}.")
        }
        states = _layer(own, config, layer, [embedding[token] for token in read], states)
    return states


def _layer(weights, config, layer, embedded, states):
    residuals, inputs = [], []
    for words, state in zip(embedded, states, strict=True):
        if "hidden_norm.weight" in weights:
            normed = _norm(state, weights["hidden_norm.weight"], layer)
            words = _norm(words, weights["input_layernorm.weight"], layer)
            inputs.append(np.concatenate([words, normed]))
            residuals.append(normed if config.norm_before_residual else state)
        else:
            inputs.append(_norm(state, weights["input_layernorm.weight"], layer))
            residuals.append(state)
    size = layer.head_dim
    queries, keys, values = (
        [_heads(weights, f"self_attn.{name}", each, size) for each in inputs]
        for name in ("q_proj", "k_proj", "v_proj")
    )
    if layer.model_type == "qwen3":
        queries = [_norm(each, weights["self_attn.q_norm.weight"], layer) for each in queries]
        keys = [_norm(each, weights["self_attn.k_norm.weight"], layer) for each in keys]
    queries, keys = (
        [_rotated(each, place, layer) for place, each in enumerate(part)]
        for part in (queries, keys)
    )
    group = layer.num_attention_heads // layer.num_key_value_heads
    outputs = []
    for place, residual in enumerate(residuals):
        seen = []
        for number, query in enumerate(queries[place]):
            scores = np.array([query @ key[number // group] for key in keys[: place + 1]])
            chances = np.exp((scores - scores.max()) / math.sqrt(size))
            chances /= chances.sum()
            parts = zip(chances, values, strict=False)
            seen.append(sum(chance * value[number // group] for chance, value in parts))
        state = residual + weights["self_attn.o_proj.weight"] @ np.concatenate(seen)
        normed = _norm(state, weights["post_attention_layernorm.weight"], layer)
        gate = weights["mlp.gate_proj.weight"] @ normed
        up = weights["mlp.up_proj.weight"] @ normed
        outputs.append(state + weights["mlp.down_proj.weight"] @ (gate / (1 + np.exp(-gate)) * up))
    return outputs


def _heads(weights, name, inputs, size):
    made = weights[f"{name}.weight"] @ inputs
    return (made + weights.get(f"{name}.bias", 0)).reshape(-1, size)


def _rotated(heads, place, layer):
    size = heads.shape[-1]
    base = layer.rope_parameters["rope_theta"]
    angles = place / base ** (np.arange(0, size, 2) / size)
    cos, sin = np.cos(angles), np.sin(angles)
    first, second = heads[:, : size // 2], heads[:, size // 2 :]
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], -1)
