"""The only place with SQL: the catalogue, the work, and what is asked of the cluster."""
