#!/usr/bin/env bash
# The scope engine's benchmarks compared with those of another commit, in one run. First the instructions that one event
# takes, which the noise of the machine hardly changes; then times, alternately, with the ratio of each pair of rounds.
# It compares, and gives no verdict.
# Usage: compare.sh COMMIT|DIRECTORY [ROUNDS]    (a directory is a work tree of this repository; no rounds: 0)
set -euo pipefail
other="${1:?name the commit, or the work tree, to compare with}"
[ -d "$other" ] && other="$(realpath "$other")"
cd "$(dirname "$0")/../.."
rounds="${2:-7}"
work="$PWD/target/compare"
mkdir -p "$work"
if [ -d "$other" ]; then
    tree="$other"
else
    tree="$work/tree"
    git worktree remove --force "$tree" 2>/dev/null || rm -rf "$tree"
    git worktree prune
    git worktree add --quiet --detach "$tree" "$other"
    trap 'git worktree remove --force "$tree"' EXIT
fi

build() { # directory, target directory: prints the benchmarks' executables
    (cd "$1" && CARGO_TARGET_DIR="$2" cargo bench --locked -p scope --no-run 2>&1) | tee /dev/stderr |
        sed -nE 's|.*Executable benches/[a-z]+\.rs \((.*)\)|\1|p' | while read -r built; do
            case "$built" in /*) echo "$built" ;; *) echo "$1/$built" ;; esac
        done
}
mapfile -t ours < <(build "$PWD" "$PWD/target")
mapfile -t theirs < <(build "$tree" "$work/build")
if [ "${#ours[@]}" = 0 ] || [ "${#ours[@]}" != "${#theirs[@]}" ]; then
    echo "the benchmarks of one side were not built" >&2
    exit 1
fi

# Instructions of the work that a benchmark does so many times.
instructions() { # executable, name, times
    DIT_BENCH_ONCE="$2:$3" valgrind --tool=callgrind --callgrind-out-file=/dev/null --toggle-collect='*counted_work*' "$1" 2>&1 |
        sed -nE 's/.*Collected : ([0-9]+).*/\1/p'
}
if ! command -v valgrind >/dev/null; then
    echo "valgrind is not installed: instructions are not counted"
elif ! grep -qr DIT_BENCH_ONCE "$tree/scope/benches" --include="*.rs"; then
    echo "$other has no work that is counted: instructions are not compared"
else
    printf '%-20s %12s %12s %12s\n' "instructions" this other this/other
    for one in scopes_1 scopes_43 scopes_1121 scopes_10000 residual_0 residual_1 residual_5 compile plan plan_of_located; do
        bench=0 times=2000
        case "$one" in plan*) bench=1 ;; compile) times=200 ;; esac
        this="$(instructions "${ours[$bench]}" "$one" "$times")"
        that="$(instructions "${theirs[$bench]}" "$one" "$times")"
        awk -v name="$one" -v this="$this" -v that="$that" -v times="$times" \
            'BEGIN { printf "%-20s %12.1f %12.1f %12.3f\n", name, this / times, that / times, this / that }'
    done
fi

rm -rf "$work/results"
run() { # side, round, executables
    local side="$1" round="$2" built
    shift 2
    for built in "$@"; do
        CRITERION_HOME="$work/results/$round/$side" "$built" --bench --noplot --quiet \
            --warm-up-time 0.5 --measurement-time 2 '^(judge|mixed|install/compile$|projection/plan)' >/dev/null 2>&1
    done
}
[ "$rounds" = 0 ] && exit 0
for round in $(seq "$rounds"); do
    # Who goes first changes every round.
    if [ $((round % 2)) = 1 ]; then
        run ours "$round" "${ours[@]}"
        run theirs "$round" "${theirs[@]}"
    else
        run theirs "$round" "${theirs[@]}"
        run ours "$round" "${ours[@]}"
    fi
done

python3 - "$work/results" <<'PY'
import collections, json, pathlib, statistics, sys

pairs = collections.defaultdict(list)
for round in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    for found in sorted((round / "ours").glob("**/new/estimates.json")):
        name = found.parent.parent.relative_to(round / "ours")
        sides = [found, round / "theirs" / name / "new" / "estimates.json"]
        if not sides[1].exists():
            continue  # the other side has no such benchmark
        pairs[str(name)].append([json.loads(side.read_text())["median"]["point_estimate"] for side in sides])
if not pairs:
    sys.exit("no benchmark was measured")
print(f"{'medians':44} {'this ns':>10} {'other ns':>10}   this/other: {'least':>6} {'median':>6} {'most':>6}")
for name, rounds in pairs.items():
    ours, theirs = (statistics.median(side) for side in zip(*rounds))
    ratios = sorted(ours / theirs for ours, theirs in rounds)
    print(f"{name:44} {ours:10.1f} {theirs:10.1f} {'':13}{ratios[0]:6.3f} {statistics.median(ratios):6.3f} {ratios[-1]:6.3f}")
PY
