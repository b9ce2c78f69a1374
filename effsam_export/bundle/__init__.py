"""Bundles: directories with everything an app needs to run a model without this package."""
