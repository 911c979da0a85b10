"""The only place with SQL: users, sessions, keys and the schema's history."""
