"""Pictures as prompts: image encoders, and adapters that condition a text-to-image network on their embeddings."""
