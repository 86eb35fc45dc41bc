"""Training and evaluation of question answering over scenes."""
