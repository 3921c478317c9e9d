# Databases on clusters that are snapshotted together: scripts/soak.sh does it for an hour.

@test "databases on three clusters, snapshots of all at once, clones that start, kill -9 in between" {
    [ -x "$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | tail -n 1)/initdb" ] || skip "there is no PostgreSQL"
    run scripts/soak.sh --short
    echo "$output"
    [ "$status" -eq 0 ]
    [ "$(grep -c '^life ' <<< "$output")" -eq 2 ]
    [[ $output == *"nothing was lost, and all that was restored is whole"* ]]
}
