"""Helpers without domain knowledge: files, progress events, installed packages, CPU, timing."""
