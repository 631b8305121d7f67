"""Reports: HTML, Markdown and terminal tables, without numbers of their own."""
