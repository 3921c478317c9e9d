# Applications judged by their own checks: scripts/applications.sh does it with larger loads.

@test "PostgreSQL, SQLite, git, rsync and tar find nothing wrong, after kill -9, in a snapshot and in a clone" {
    [ -x "$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | tail -n 1)/initdb" ] || skip "there is no PostgreSQL"
    run scripts/applications.sh --short
    echo "$output"
    [ "$status" -eq 0 ]
    [[ $output == *"5 applications found nothing wrong, nor did check"* ]]
}
