"""How the demo's shop is drawn: products from shapes, the views of them, and what gives each its emotion."""
