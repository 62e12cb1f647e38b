"""What crosses a link: messages, their frames, and links that carry them."""
