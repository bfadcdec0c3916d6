"""Live figures: plain scripts inside the page, with their data."""
