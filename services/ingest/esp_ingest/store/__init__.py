"""The only place with SQL: what the service keeps, and how it is asked for."""
