"""What came of a simulation: records, step logs, metrics, texts, tables, files and plots."""
