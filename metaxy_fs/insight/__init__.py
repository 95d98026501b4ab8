"""Why stored versions are what they are: models of explanations, and how they are shown."""
