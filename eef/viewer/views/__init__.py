"""Views: an address → a page's template and what it shows."""
