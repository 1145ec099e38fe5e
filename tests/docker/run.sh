#!/usr/bin/env bash
# Builds the image and runs it the way docker/compose.dev.yml says: health, a PUT and a GET with boto3, the data still
# there after a restart, and a clear line where io_uring is refused. Needs GRANARY_BIN and GRANARY_PYTHON (with boto3).
# Prints `SKIP: why` and ends with 77 where no Docker engine answers; removes everything it made.
set -euo pipefail
cd "$(dirname "$0")/../.."

skip() { echo "SKIP: $*"; exit 77; }
shown=""
fail() { echo "FAIL: $*" >&2; docker logs "${shown:-$name}" 2>&1 | tail -40 >&2 || true; exit 1; }

command -v docker >/dev/null || skip "docker is not installed"
timeout 20 docker info >/dev/null 2>&1 || skip "no Docker engine answers (docker info)"
: "${GRANARY_BIN:?names the binary to put into the image}"
python=${GRANARY_PYTHON:-python3}
"$python" -c 'import boto3' 2>/dev/null || skip "boto3 is not installed for $python"

name=granary-test-$$
image=granary:test-$$
export GRANARY_ROOT_ACCESS_KEY=DOCKERTEST GRANARY_ROOT_SECRET_KEY=docker-test-secret-$RANDOM$RANDOM
clean() {
  docker rm -f "$name" "$name-threads" >/dev/null 2>&1 || true
  docker volume rm -f "$name" "$name-threads" >/dev/null 2>&1 || true
  docker image rm -f "$image" >/dev/null 2>&1 || true
}
trap clean EXIT

scripts/docker-build.sh "$image" >/dev/null
echo "image built: $(docker image inspect --format '{{.Size}}' "$image") bytes"

start() { # name, seccomp profile
  docker run -d --name "$1" -p 127.0.0.1::9000 -v "$1:/data" -e GRANARY_ROOT_ACCESS_KEY -e GRANARY_ROOT_SECRET_KEY \
    --security-opt "seccomp=$2" --security-opt no-new-privileges --cap-drop ALL --read-only \
    "$image" dev --data /data --listen 0.0.0.0:9000 --preset ai >/dev/null
}
ready() {
  for _ in $(seq 600); do
    if docker logs "$1" 2>/dev/null | grep -q '^READY '; then return; fi
    [ "$(docker inspect --format '{{.State.Running}}' "$1")" = true ] || { shown=$1; fail "the container ended"; }
    sleep 0.2
  done
  shown=$1; fail "no READY line within two minutes"
}
port() { docker port "$1" 9000/tcp | head -n 1 | sed 's/.*://'; }

start "$name" docker/seccomp.json
ready "$name"
docker exec "$name" granary health || fail "granary health says no"
docker exec -e GRANARY_ROOT_ACCESS_KEY -e GRANARY_ROOT_SECRET_KEY "$name" granary status || fail "granary status failed"
docker logs "$name" 2>/dev/null | grep '^# granary' | grep -q 'io_uring' || fail "io_uring is not in use under docker/seccomp.json"
docker logs "$name" 2>/dev/null | grep -q 'PLAINTEXT' || fail "the start-up lines do not say that plain HTTP is on"

s3() { # port, verb
  GRANARY_PORT=$1 "$python" - "$2" <<'PY'
import hashlib, os, sys
import boto3
from botocore.config import Config

s3 = boto3.client(
    "s3", endpoint_url=f"http://127.0.0.1:{os.environ['GRANARY_PORT']}", region_name="us-east-1",
    aws_access_key_id=os.environ["GRANARY_ROOT_ACCESS_KEY"], aws_secret_access_key=os.environ["GRANARY_ROOT_SECRET_KEY"],
    config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
)
body = hashlib.shake_256(b"granary").digest(3_000_000)
if sys.argv[1] == "put":
    assert {"raw", "processed", "artefacts", "cache"} <= {b["Name"] for b in s3.list_buckets()["Buckets"]}
    s3.put_object(Bucket="processed", Key="a/b", Body=body)
got = s3.get_object(Bucket="processed", Key="a/b")["Body"].read()
assert got == body, f"{len(got)} bytes came back, not the {len(body)} written"
print(f"{sys.argv[1]}: {len(got)} bytes read back right")
PY
}
s3 "$(port "$name")" put

docker stop -t 45 "$name" >/dev/null
[ "$(docker inspect --format '{{.State.ExitCode}}' "$name")" = 0 ] || fail "SIGTERM did not end it with 0"
docker start "$name" >/dev/null
sleep 1
ready "$name"
for _ in $(seq 300); do docker exec "$name" granary health 2>/dev/null && break; sleep 0.2; done
s3 "$(port "$name")" get

# Where io_uring is refused the server must say so, and serve.
denied=$(mktemp)
cat > "$denied" <<'JSON'
{"defaultAction": "SCMP_ACT_ALLOW",
 "syscalls": [{"names": ["io_uring_setup", "io_uring_enter", "io_uring_register"], "action": "SCMP_ACT_ERRNO"}]}
JSON
start "$name-threads" "$denied"
rm -f "$denied"
ready "$name-threads"
line=$(docker logs "$name-threads" 2>/dev/null | grep '^# granary')
case "$line" in
  *"io_uring is refused"*) echo "io_uring refused: $line" ;;
  *) shown=$name-threads; fail "io_uring is refused and the start-up line does not say so: $line" ;;
esac
s3 "$(port "$name-threads")" put
echo PASS
