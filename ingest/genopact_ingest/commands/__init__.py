"""The commands that import: where this room's rows meet the site's keys. `genopact-site` has them where both are."""
