"""The service's SQL: users, sessions, keys and migrations."""
