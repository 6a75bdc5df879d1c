"""What a cache holds, for people: tables, pictures, failures, export."""
