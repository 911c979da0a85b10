"""The auth service: identities, permissions, sessions, API keys and the audit log."""
