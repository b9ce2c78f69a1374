"""Helpers without domain knowledge: files, progress, installed packages, CPU facts, timing."""
