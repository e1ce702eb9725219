"""Select the k best documents of each query, in one fixed order."""
