#!/usr/bin/env bash
# From a dump to a table, data and pictures: examples/score_and_plot.sh [DUMP [FOLDER]]
set -euo pipefail

dump=${1:-"$(dirname "$0")/dump.safetensors"}
folder=${2:-out}
mkdir -p "$folder"

attnviz inspect "$dump"
attnviz score "$dump" --head 0 --out "$folder/scores.json"
attnviz plot "$dump" --head 0 --annot --out "$folder/head0.png"
attnviz plot "$dump" --head all --values logits --out "$folder/heads.svg"
