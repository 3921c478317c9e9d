# A few kills of the daemon under each load: scripts/kills.sh does two hundred of each.

@test "kill -9 under pgbench, SQLite and writers that record takes nothing back that was acknowledged" {
    [ -x "$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | tail -n 1)/initdb" ] || skip "there is no PostgreSQL"
    run scripts/kills.sh --short
    echo "$output"
    [ "$status" -eq 0 ]
    [ "$(grep -c ' 3 kills, ' <<< "$output")" -eq 4 ]
    [[ $output == *"nothing that was acknowledged was lost"* ]]
}

@test "power cuts under SQLite and a writer that records take nothing back that was acknowledged" {
    run scripts/kills.sh --power --short --only sqlite --only writer
    echo "$output"
    [ "$status" -eq 0 ]
    [ "$(grep -c ' in 3 power cuts' <<< "$output")" -eq 2 ]
    [[ $output == *"nothing that was acknowledged was lost"* ]]
}
