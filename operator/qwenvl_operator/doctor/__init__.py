"""`qwenvl doctor`: reads what a cluster or a resource needs, and says what is wrong in the words of the conditions."""
