#!/usr/bin/env bash
# A scenario measured with this code and with another commit's, alternately; then whether the figures differ by more than
# the noise of their rounds. Ends with 1 where one is worse.
# Usage: compare.sh COMMIT|DIRECTORY [SCENARIO] [TIMES]    (a directory is a work tree of this repository)
set -euo pipefail
other="${1:?name the commit, or the work tree, to compare with}"
[ -d "$other" ] && other="$(realpath "$other")"
cd "$(dirname "$0")/.."
scenario="${2:-pipe}"
times="${3:-2}"
work="$PWD/target/compare/load"
mkdir -p "$work"
if [ -d "$other" ]; then
    tree="$other"
    target="$tree/target"
else
    tree="$work/tree"
    target="$work/build"
    git worktree remove --force "$tree" 2>/dev/null || rm -rf "$tree"
    git worktree prune
    git worktree add --quiet --detach "$tree" "$other"
    trap 'git worktree remove --force "$tree"' EXIT
fi
CARGO_TARGET_DIR="$PWD/target" cargo build --quiet --release --locked -p loadtest --bin dit-loadtest
(cd "$tree" && CARGO_TARGET_DIR="$target" cargo build --quiet --release --locked -p loadtest --bin dit-loadtest)

rm -rf "$work/before" "$work/after"
mkdir -p "$work/before" "$work/after"
measure() { # side, its tree, its program, number
    local out="$work/$1-$4"
    rm -rf "$out"
    (cd "$2" && "$3" run "loadtest/scenarios/$scenario.toml" --out "$out")
    mv "$out/$scenario.json" "$work/$1/$4.json"
    rm -rf "$out"
}
for number in $(seq "$times"); do
    # Who goes first changes every time.
    if [ $((number % 2)) = 1 ]; then
        measure before "$tree" "$target/release/dit-loadtest" "$number"
        measure after "$PWD" "$PWD/target/release/dit-loadtest" "$number"
    else
        measure after "$PWD" "$PWD/target/release/dit-loadtest" "$number"
        measure before "$tree" "$target/release/dit-loadtest" "$number"
    fi
done
target/release/dit-loadtest compare "$work/before" "$work/after"
