"""The commands of `genopact`, one file a group."""
