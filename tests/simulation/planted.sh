#!/usr/bin/env bash
# Each planted bug must be found by the simulation within so many seeds (100). A bug is a patch of the sources: it is put
# into a copy of them, the copy is built and run until a promise breaks. Ends with an error when one is not found.
set -euo pipefail
cd "$(dirname "$0")/../.."
seeds="${1:-100}"
root="$PWD"
tree="$root/target/planted/tree"
# The copy is no part of the repository around it.
export GIT_CEILING_DIRECTORIES="$root/target/planted"
export CARGO_TARGET_DIR="${PLANTED_TARGET:-$root/target/planted/build}" RUST_BACKTRACE=0
rm -rf "$tree"
mkdir -p "$tree"
git ls-files -z | xargs -0 cp --parents -t "$tree"
cd "$tree"
missed=0
# What the sources themselves break would pass for every bug.
cargo build --release --quiet --locked -p simulation 2>"$tree/build.log" || { cat "$tree/build.log"; exit 1; }
"$CARGO_TARGET_DIR/release/simulation" --seeds "$seeds" --until-broken >"$tree/run.log" 2>&1 || { grep '^seed' "$tree/run.log"; exit 1; }
echo "without a bug: nothing in $seeds seeds"
for patch in "$root"/tests/simulation/planted/${2:-*}.patch; do
    bug="$(basename "$patch" .patch)"
    git apply "$patch"
    cargo build --release --quiet --locked -p simulation 2>"$tree/build.log" || { cat "$tree/build.log"; exit 1; }
    if found="$("$CARGO_TARGET_DIR/release/simulation" --seeds "$seeds" --until-broken 2>/dev/null)"; then
        echo "$bug: NOT FOUND within $seeds seeds"
        missed=$((missed + 1))
    else
        echo "$bug: $(grep -m1 '^seed' <<<"$found" | cut -c1-160)"
    fi
    git apply --reverse "$patch"
done
echo "planted bugs not found: $missed"
[ "$missed" = 0 ]
