"""Configurations, in the folders of the groups that they are options of."""
