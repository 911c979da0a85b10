"""The pumps that ingest registers, as diagnostics knows them."""
