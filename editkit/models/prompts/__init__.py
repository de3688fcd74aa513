"""Pictures as prompts: image encoders, and adapters by which a text-to-image network looks at what they say."""
