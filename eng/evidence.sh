#!/usr/bin/env bash
# The full counts behind docs/reliability.md, in one command; as root, on a machine with nothing else to do: some hours.
#   eng/evidence.sh [PART...]        all parts, or those named
#   eng/evidence.sh --list           what there is
#   eng/evidence.sh --summary        the table of the results that are there
# Goes on after a part that failed. Each part leaves docs/evidence/PART.json (commit, machine, date, duration, figures) and the end
# of its output beside it. Exit code 1 when any failed. POSTCOPY_NO_BUILD=1 takes what is built already.
set -uo pipefail
cd "$(dirname "$0")/.."
export DOTNET_CLI_TELEMETRY_OPTOUT=1 DOTNET_NOLOGO=1
results=docs/evidence
log=$(mktemp -d "${TMPDIR:-/tmp}/postcopy-evidence.XXXXXX")
trap 'rm -rf "$log"' EXIT

# tests CONFIGURATION PROJECT [NAME=VALUE...] -- TEST...: the test methods that fit, with these counts.
tests() {
    local configuration=$1 project=tests/$2 variables=() filter=()
    shift 2
    while [ $# -gt 0 ] && [ "$1" != -- ]; do
        variables+=("$1")
        echo "figure: ${1%%=*}=${1#*=}"
        shift
    done
    shift
    for test in "$@"; do filter+=(--filter-method "*.$test"); done
    [ "${POSTCOPY_NO_BUILD:-}" = 1 ] || dotnet build -c "$configuration" "$project" -v q || return 1
    env ${variables[@]+"${variables[@]}"} dotnet test -c "$configuration" --no-build --project "$project" -- --output Detailed --no-ansi ${filter[@]+"${filter[@]}"}
}

# One function a part; what it prints as 'figure: NAME=VALUE' goes into its result.
part_models() { tests/models/check; }
part_interleavings() { tests Debug Postcopy.Uffd.Tests POSTCOPY_ORDERS=20000 POSTCOPY_PREEMPTIONS=3 -- 'BlocktimeInterleavingTests.*' 'ProtocolInterleavingTests.*'; }
part_oracle() { tests Release Postcopy.Uffd.Tests POSTCOPY_ORACLE=50 -- 'BlocktimeOracleTests.*' 'BlocktimeStressTests.*'; }
part_simulation() {
    # In turns, because each test has a time limit.
    local seed
    for seed in $(seq 1 300 3000); do
        tests Debug Postcopy.Uffd.Tests POSTCOPY_SCHEDULES=300 "POSTCOPY_SEED=$seed" -- 'SimulationTests.*' || return 1
    done
    tests Debug Postcopy.Uffd.Tests -- 'ScheduleTests.*'
}
part_gc() { tests Release Postcopy.Uffd.Tests POSTCOPY_GC_SECONDS=60 -- 'GcSafetyTests.*' 'StuckFaultTests.*'; }
part_handler() { tests Release Postcopy.Handler.Tests POSTCOPY_HANDLER_KILLS=100 -- '*'; }
part_breaking() {
    tests Release Postcopy.Breaking.Tests POSTCOPY_SOURCE_KILLS=200 POSTCOPY_NETWORKS=100 POSTCOPY_STORMS=2000 POSTCOPY_SIGNAL_SECONDS=30 POSTCOPY_FUZZ=100000 -- '*'
}
part_streams() { tests Release Postcopy.Uffd.Qemu.Tests POSTCOPY_MUTATIONS=200000 -- 'HostileStreamTests.*'; }
part_live() { tests Release Postcopy.Uffd.Qemu.Tests POSTCOPY_TESTS=full -- 'LiveBreakTests.*'; }
part_soak() { dotnet run -c Release --project benchmarks/Postcopy.Uffd.Benchmarks -- soak --minutes 15 --save benchmarks/results; }
part_mutation() { eng/mutation-check; }
part_operators() { dotnet run -c Release --project eng/mutation -- operators --sample "${POSTCOPY_MUTANTS:-60}"; }

parts=(models interleavings oracle simulation gc handler breaking streams live soak mutation operators)

quote() { printf '"%s"' "$(sed 's/\\/\\\\/g; s/"/\\"/g; s/\t/ /g' <<<"$1" | tr -d '\000-\037')"; }

# The runner's closing summary, and what the part says of itself.
figures() {
    local first=1 name value
    while IFS='=' read -r name value; do
        [ "$first" = 1 ] || printf ', '
        first=0
        printf '%s: %s' "$(quote "$name")" "$(quote "$value")"
    done < <(
        sed -nE 's/^ *(total|succeeded|failed|skipped): *([0-9]+).*/tests \1=\2/p' "$1" | tail -n 4
        sed -nE 's/^figure: *//p' "$1"
        awk '/^ *[0-9]+ orders$/ { orders += $1 } END { if (orders) print "orders explored=" orders }' "$1"
        sed -nE 's/^ *([0-9]+ mutations) of .*; (complete|cut|incomplete|malformed)(:.*)$/\1=\2\3/p' "$1"
        sed -nE 's/^([a-z]+): holds in all ([0-9]+) states/states of \1=\2/p' "$1"
        sed -nE 's/^([0-9]+ of [0-9]+ guards taken out .*)/guards=\1/p; s/^(Blocktime|Ram|Placement|Wire): ([0-9]+ of [0-9]+ mutants noticed.*)/\1=\2/p' "$1"
    )
}

run() {
    local part=$1 output=$log/$1 status=0 start=$SECONDS passed=true
    echo "== $part"
    # In a shell of its own: a part may fail anywhere in it.
    (set -e; "part_$part") >"$output" 2>&1 || status=$?
    grep -qE '^ *skipped: *[1-9]' "$output" && status=77
    [ "$status" -eq 0 ] || passed=false
    mkdir -p "$results"
    tail -n 40 "$output" | sed -E 's/\x1b\[[0-9;]*m//g; s#'"$PWD"'/##g; s#/[^ ]*/postcopy-[^ /]*/##g' >"$results/$part.txt"
    cat >"$results/$part.json" <<JSON
{
  "part": "$part",
  "passed": $passed,
  "exitCode": $status,
  "date": "$(date -u +%Y-%m-%dT%H:%MZ)",
  "seconds": $((SECONDS - start)),
  "commit": "$(git rev-parse --short=12 HEAD)$(git diff --quiet HEAD -- src tests benchmarks ':!benchmarks/results' || echo ' and changes')",
  "machine": $(quote "$(nproc) x $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), $(awk '/MemTotal/ { printf "%.0f GiB", $2 / 1048576 }' /proc/meminfo), Linux $(uname -r), .NET $(dotnet --version)"),
  "figures": { $(figures "$output") }
}
JSON
    echo "$part: $([ "$passed" = true ] && echo passed || echo "FAILED ($status)"), $((SECONDS - start)) s"
    [ "$passed" = true ] || { tail -n 15 "$output" | sed 's/^/    /'; return 1; }
}

summary() {
    local file part
    printf '| part | result | date | s | commit | figures |\n|---|---|---|---|---|---|\n'
    for part in "${parts[@]}"; do
        file=$results/$part.json
        if [ -f "$file" ]; then
            value() { sed -nE "s/^ *\"$1\": \"?([^\"]*)\"?,?$/\1/p" "$file"; }
            printf '| %s | %s | %s | %s | %s | %s |\n' "$part" "$([ "$(value passed)" = 'true,' ] || [ "$(value passed)" = true ] && echo passed || echo FAILED)" \
                "$(value date)" "$(value seconds | tr -d ,)" "$(value commit)" "$(sed -nE 's/^ *"figures": \{ (.*) \}$/\1/p' "$file" | tr -d '"')"
        else
            printf '| %s | not run | | | | |\n' "$part"
        fi
    done
}

case "${1:-}" in
    --list) printf '%s\n' "${parts[@]}"; exit ;;
    --summary) summary; exit ;;
esac
chosen=("$@")
[ $# -gt 0 ] || chosen=("${parts[@]}")
for part in "${chosen[@]}"; do
    [[ " ${parts[*]} " == *" $part "* ]] || { echo "There is no part '$part'; there are: ${parts[*]}."; exit 2; }
done
failed=0
for part in "${chosen[@]}"; do run "$part" || failed=$((failed + 1)); done
summary | tee "$results/README.md.new" && { printf '# Results of eng/evidence.sh\n\nWritten by it; what they mean: [reliability](../reliability.md).\n\n'; cat "$results/README.md.new"; } >"$results/README.md"
rm -f "$results/README.md.new"
echo "$((${#chosen[@]} - failed)) parts passed, $failed failed"
[ "$failed" -eq 0 ]
