#!/usr/bin/env bash
# Builds a container image from a built binary, without any registry: scripts/docker-build.sh [TAG] [BASE]
#
# TAG defaults to granary:dev, BASE to scratch. GRANARY_BIN names the binary (default: the release build).
set -euo pipefail
cd "$(dirname "$0")/.."

tag=${1:-granary:dev}
base=${2:-scratch}
binary=${GRANARY_BIN:-${CARGO_TARGET_DIR:-$HOME/.cache/granary/target}/release/granary}
[ -x "$binary" ] || { echo "docker-build: no binary at $binary: run \`make release\`, or set GRANARY_BIN" >&2; exit 1; }

context=$(mktemp -d)
trap 'rm -rf "$context"' EXIT
root=$context/rootfs
mkdir -p "$root/usr/bin" "$root/etc" "$root/tmp" "$context/data"
install -m 755 "$binary" "$root/usr/bin/granary"
strip --strip-debug "$root/usr/bin/granary" 2>/dev/null || true
# The loader and the shared libraries, where the binary looks for them.
ldd "$binary" | grep -oE '/[^ ]+' | while read -r library; do
  install -D -m 755 "$(readlink -f "$library")" "$root$library"
done
echo 'granary:x:10001:10001::/data:/usr/bin/granary' > "$root/etc/passwd"
echo 'granary:x:10001:' > "$root/etc/group"
cp docker/Dockerfile "$context/Dockerfile"
# The classic builder needs no pulled front end.
DOCKER_BUILDKIT=0 docker build --quiet --build-arg "BASE=$base" --tag "$tag" "$context"
