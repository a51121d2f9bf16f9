"""Private training steps on this site's patients."""
