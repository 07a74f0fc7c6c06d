"""Tables, pages and intervals over finished runs."""
