"""Images as arrays, and what can be said of one: decoding, loading, describing, rules, sheets."""
