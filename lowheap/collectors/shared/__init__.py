"""What several collectors use: references, free lists, tracing, frames, sizing. Functions written once."""
