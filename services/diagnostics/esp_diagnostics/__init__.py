"""ESP diagnostics: pump states, findings, alerts, key figures and the live stream."""
