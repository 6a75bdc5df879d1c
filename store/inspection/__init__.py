"""Tables, pictures, lists of failures and exports of the contents of a cache."""
