"""A small vision-language model that knows colours, shapes, digits and directions, and how it is made."""
