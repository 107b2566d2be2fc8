#!/usr/bin/env bash
# Visualises a class with `buf curl`, which learns the messages from the server's reflection:
# visualize-class.sh [HOST:PORT [MODEL [CLASS [STEPS [FILE]]]]]
set -euo pipefail

target=${1:-127.0.0.1:50051}
model=${2:-efficientnet-lite0}
class=${3:-967}
steps=${4:-64}
output=${5:-class.png}

request=$(printf '{"model": "models/%s", "classes": [%d], "steps": %d, "options": {"previewEvery": 0}}' \
  "$model" "$class" "$steps")
part=$output.part
trap 'rm -f "$part"' EXIT

# The messages come as indented JSON, a line for each field. There are no previews, so the one `encoded` is the
# picture of the result.
buf curl --protocol grpc --http2-prior-knowledge --reflect-protocol grpc-v1 --data "$request" \
  "http://$target/endoscope.v1.GradientService/VisualizeClass" |
  sed --unbuffered --quiet \
    --expression '/"step": {/,/"losses"/ s/.*"index": "\([0-9]*\)".*/step \1/w /dev/stderr' \
    --expression 's/.*"encoded": "\([^"]*\)".*/\1/p' |
  base64 --decode >"$part"

[[ -s $part ]] || { echo "there is no picture in the answer" >&2; exit 1; }
mv "$part" "$output"
echo "$output"
