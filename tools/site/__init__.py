"""The site of docs/: what MkDocs is told to do beyond its configuration in mkdocs.yml."""
