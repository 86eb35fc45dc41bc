"""Source views and the target views to render from them."""
