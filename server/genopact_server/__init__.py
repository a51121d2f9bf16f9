"""The coordinator: link host, round loop, releases, reports, audit verification."""
