"""Judging a saved run: findings, and the whole summary. Pure; needs only the run folder, so a laptop will do."""
