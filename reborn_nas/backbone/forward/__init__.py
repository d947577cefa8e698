"""Forward: a class and edits of its calls → a subclass whose forward calls modules instead of them."""
