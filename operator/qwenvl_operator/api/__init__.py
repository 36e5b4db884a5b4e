"""The API `qwenvl.io/v1alpha1`: models, their structural schema, and the CustomResourceDefinition made of them."""
