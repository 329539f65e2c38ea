"""A small vision-language model that knows eight colours, four shapes, digits and four directions, and how it is made."""
