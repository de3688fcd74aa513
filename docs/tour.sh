#!/usr/bin/env bash
# The README's pictures, made by the README's own commands: every line of it that writes into docs/tour.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p docs/tour
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
grep -E '^editkit .*--compare docs/tour/' README.md | while IFS= read -r command; do
  echo "+ $command"
  bash -c "${command/ -o / -o $work/} --force"
done
