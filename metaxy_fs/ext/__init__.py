"""Other engines and orchestrators: each module needs the extra of its own name, and nothing else imports it."""
