"""The commands of `genopact-site`, one module for each group."""
