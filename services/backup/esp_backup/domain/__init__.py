"""What backups have to be, and when: rules without I/O, framework or clock."""
