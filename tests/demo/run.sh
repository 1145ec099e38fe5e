#!/usr/bin/env bash
# The main job end to end: `make demo` runs this after building. Needs tests/requirements.txt installed for $PYTHON
# (default: the environment that scripts/venv makes) and a binary ($GRANARY_BIN, else the newest build).
set -euo pipefail
cd "$(dirname "$0")/../.."
python="${PYTHON:-$(scripts/venv tests/requirements.txt)}"
[ -x "$(command -v "$python")" ] || { echo "demo: no $python: run make bootstrap first, or set PYTHON" >&2; exit 2; }
export PYTHONPATH="$PWD" PATH="$(dirname "$(command -v "$python")"):$PATH"
exec "$python" -m tests.demo "$@"
