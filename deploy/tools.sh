# The tools that deploy/check needs, found on this machine or fetched into a cache by version.
# Each function prints the command's path, or says on standard error why there is none; what takes
# long is announced on descriptor 3.
# shellcheck shell=bash

CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/volcast
COMPOSE_VERSION=v2.40.3

# A compose of version 2. Its Go module is built as a main module, for `go install` refuses its
# replace directives; the binary works without Docker's own program, and `config` without an engine.
find_compose() {
  local binary=$CACHE/docker-compose-$COMPOSE_VERSION
  if [[ -x $binary ]]; then
    echo "$binary"
  elif docker compose version --short 2>/dev/null | grep -q '^v\?[2-9]'; then
    echo "docker compose"
  elif ! command -v go >/dev/null; then
    echo "neither \`docker compose\` version 2 nor Go to build it with" >&2
    return 1
  else
    build_compose "$binary" && echo "$binary"
  fi
}

build_compose() {
  local binary=$1 module=github.com/docker/compose/v2 source work
  echo "building docker compose $COMPOSE_VERSION, once, about three minutes ..." >&3
  # Outside any module, so that no go.mod here has a say.
  source=$(cd / && go mod download -json "$module@$COMPOSE_VERSION" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p') &&
    [[ -d $source ]] || { echo "the Go module $module@$COMPOSE_VERSION could not be fetched" >&2; return 1; }
  mkdir -p "$CACHE" && work=$(mktemp -d "$CACHE/compose.XXXXXX") || return 1
  cp -r "$source/." "$work" && chmod -R u+w "$work" &&
    (cd "$work" && go build -trimpath -ldflags "-s -w -X $module/internal.Version=$COMPOSE_VERSION" -o "$work/compose.bin" ./cmd >&3 2>&3) &&
    mv "$work/compose.bin" "$binary"
  local result=$?
  rm -rf "$work"
  [[ $result == 0 ]] || echo "docker compose $COMPOSE_VERSION could not be built" >&2
  return $result
}

# Prometheus's own checker. Debian's package is unpacked, not installed: no root, no service started.
find_promtool() {
  local unpacked=$CACHE/prometheus/usr/bin/promtool
  if command -v promtool >/dev/null; then
    command -v promtool
  elif [[ -x $unpacked ]]; then
    echo "$unpacked"
  elif ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
    echo "no promtool on PATH, and no apt to fetch it with" >&2
    return 1
  else
    unpack_prometheus && echo "$unpacked"
  fi
}

unpack_prometheus() {
  local work result
  echo "fetching Debian's prometheus package, once ..." >&3
  mkdir -p "$CACHE" && work=$(mktemp -d "$CACHE/prometheus.XXXXXX") || return 1
  mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
  # Package lists of our own, where the machine has none or old ones.
  local own=(-o "Dir::State::lists=$work/lists" -o "Dir::Cache=$work/cache" -o APT::Sandbox::User= -qq)
  (cd "$work" && { apt-get -o APT::Sandbox::User= -qq download prometheus ||
    { apt-get "${own[@]}" update && apt-get "${own[@]}" download prometheus; }; }) >"$work/log" 2>&1 &&
    dpkg-deb -x "$work"/prometheus_*.deb "$work/root" && rm -rf "$CACHE/prometheus" && mv "$work/root" "$CACHE/prometheus"
  result=$?
  [[ $result == 0 ]] || { echo "Debian's prometheus package could not be fetched:" && tail -n 3 "$work/log"; } >&2
  rm -rf "$work"
  return $result
}

find_hadolint() {
  local ours=$ROOT/.venv/bin/hadolint
  if [[ -x $ours ]]; then
    echo "$ours"
  else
    command -v hadolint || { echo "no hadolint: \`make setup\` installs it in .venv" >&2; return 1; }
  fi
}
