"""The auth service: says whose an API key is and what it may do."""
