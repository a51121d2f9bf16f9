"""The offline audit: bundles of exported logs, and the checks that need neither a server nor anybody's word."""
