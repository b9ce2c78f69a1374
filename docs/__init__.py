"""The documentation: pages in Markdown, and the code that writes tables into them."""
