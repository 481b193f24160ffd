"""The custom resource: its models, and the definition that is made from them."""
