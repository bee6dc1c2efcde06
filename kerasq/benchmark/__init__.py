"""Accuracy, bytes and latency: the demo's tables and the measurements behind them."""
