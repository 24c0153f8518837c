"""Small programs over `import vitrine`; tests/test_examples.py runs each of them."""
