"""What the verbs of ``dcz`` do: one module for each, with a function ``run(options)``."""
