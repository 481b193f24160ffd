"""The web dashboard of Headrace."""
