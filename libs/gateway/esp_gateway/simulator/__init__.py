"""A field of ESP wells from physics: pumps, wells, motors, instruments, and faults by their cause."""
