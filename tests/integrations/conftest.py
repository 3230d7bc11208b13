"""Integrations are tested where they are installed: ``make test-integrations`` has an environment for them."""
