# A short random history of a pool: scripts/history.sh does more of it, over 2 GiB.

@test "what each deletion frees was said before, and no space is lost, with the key disabled too" {
    run scripts/history.sh --short
    echo "$output"
    [ "$status" -eq 0 ]
    [[ $output == *"no space was lost"* ]]
    [[ $output == *"deletions under a disabled key"* ]]
}

@test "a snapshot of a cluster ten times as large writes as much" {
    run python3 scripts/lib/bench.py --short --only snapshot
    echo "$output"
    [ "$status" -eq 0 ]
    ratio=$(grep -oE '[0-9.]+ of bytes' <<<"$output" | cut -d' ' -f1)
    [ -n "$ratio" ]
    awk -v ratio="$ratio" 'BEGIN { exit !(ratio < 1.2) }'
}
