"""Everything that is Ray: connection, Train, Tune, planning."""
